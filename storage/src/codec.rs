//! How commands and responses become bytes.

use anyerror::AnyError;
use bytes::Bytes;

/// Turns values into bytes and back: chosen by the state machine, for its commands and responses.
///
/// A command's bytes are written to every log and may be read years later by another version of
/// the program. [`Codec::VERSION`] stands in every entry; [`Codec::decode`] is told the version
/// the bytes were written with.
pub trait Codec<T>: Send + Sync + 'static {
    /// Written into each entry, and handed to [`Codec::decode`] when it is read.
    const VERSION: u16 = 1;

    /// The bytes of `value`. Called once per command, by the caller's own task.
    ///
    /// # Errors
    /// A value that has no encoding; the write fails and nothing is proposed.
    fn encode(value: &T) -> Result<Bytes, AnyError>;

    /// The value that `bytes` stand for, written by `version` of this codec. A value that keeps some of
    /// them keeps the memory of all that they were read with; a small one that is to last is better copied.
    ///
    /// Called before a command is proposed when it came from another node, and by every node
    /// before it is applied. Must not panic, whatever the bytes.
    ///
    /// # Errors
    /// Bytes that stand for no value. A command from a peer is then refused; one found in the log
    /// stops the node, since skipping it would let replicas diverge.
    fn decode(version: u16, bytes: Bytes) -> Result<T, AnyError>;
}

/// The bytes themselves, untouched and free: `Command = Bytes`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec<Bytes> for Raw {
    #[inline]
    fn encode(value: &Bytes) -> Result<Bytes, AnyError> {
        Ok(value.clone())
    }

    #[inline]
    fn decode(_version: u16, bytes: Bytes) -> Result<Bytes, AnyError> {
        Ok(bytes)
    }
}

/// For responses that say nothing.
impl Codec<()> for Raw {
    fn encode(_: &()) -> Result<Bytes, AnyError> {
        Ok(Bytes::new())
    }

    fn decode(_version: u16, bytes: Bytes) -> Result<(), AnyError> {
        if bytes.is_empty() { Ok(()) } else { Err(AnyError::error("bytes where none belong")) }
    }
}

/// Any serde type in [postcard](https://docs.rs/postcard)'s compact form.
///
/// Small and positional: fields have no names, so a field can't be removed or reordered, and a new
/// enum variant goes at the end. A type that must change more freely uses `Json` or a codec of
/// its own.
#[cfg(feature = "postcard")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Postcard;

#[cfg(feature = "postcard")]
impl<T> Codec<T> for Postcard
where
    T: serde::Serialize + serde::de::DeserializeOwned + 'static,
{
    fn encode(value: &T) -> Result<Bytes, AnyError> {
        postcard::to_stdvec(value).map(Bytes::from).map_err(|e| AnyError::new(&e))
    }

    fn decode(_version: u16, bytes: Bytes) -> Result<T, AnyError> {
        let (value, rest) = postcard::take_from_bytes(&bytes).map_err(|e| AnyError::new(&e))?;
        if rest.is_empty() {
            Ok(value)
        } else {
            Err(AnyError::error(format!("{} bytes behind the value", rest.len())))
        }
    }
}

/// Any serde type as JSON: larger, self-describing, fields may come and go.
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

#[cfg(feature = "json")]
impl<T> Codec<T> for Json
where
    T: serde::Serialize + serde::de::DeserializeOwned + 'static,
{
    fn encode(value: &T) -> Result<Bytes, AnyError> {
        serde_json::to_vec(value).map(Bytes::from).map_err(|e| AnyError::new(&e))
    }

    fn decode(_version: u16, bytes: Bytes) -> Result<T, AnyError> {
        serde_json::from_slice(&bytes).map_err(|e| AnyError::new(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_shares_the_bytes() {
        let bytes = Bytes::from(vec![1, 2, 3]);
        let encoded = Raw::encode(&bytes).unwrap();
        assert_eq!(encoded.as_ptr(), bytes.as_ptr());
        assert!(<Raw as Codec<()>>::decode(1, bytes).is_err());
    }

    #[cfg(feature = "postcard")]
    #[test]
    fn postcard_refuses_what_is_left_over() {
        let bytes = <Postcard as Codec<u32>>::encode(&7).unwrap();
        assert_eq!(<Postcard as Codec<u32>>::decode(1, bytes.clone()).unwrap(), 7);
        let longer = Bytes::from([&bytes[..], &[0]].concat());
        assert!(<Postcard as Codec<u32>>::decode(1, longer).is_err());
        assert!(<Postcard as Codec<u32>>::decode(1, Bytes::from_static(&[0xff])).is_err());
    }
}
