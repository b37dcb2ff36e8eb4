//! What is loaded: keys and values from text, one `key<TAB or spaces>value` a line.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::key;

/// The project's own copy of well-known `name/protocol port` facts.
pub const SERVICES: &str = include_str!("../data/services");

/// Keys with their values; each key once.
pub type Pairs = Vec<(String, Bytes)>;

/// Reads lines of `key<TAB or spaces>value`; empty ones and those that begin with `#` are passed
/// over. A key that comes twice has its last value, at its first place.
///
/// # Errors
/// The first line that is none of it.
pub fn parse(text: &str) -> Result<Pairs, String> {
    let mut pairs = Pairs::new();
    let mut places = BTreeMap::<&str, usize>::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once([' ', '\t']).ok_or_else(|| {
            format!("line {number} is {line:?}; write a key, a tab or spaces, and its value")
        })?;
        key::check(name.as_bytes()).map_err(|error| format!("line {number}: {error}"))?;
        let value = Bytes::copy_from_slice(value.trim_start().as_bytes());
        match places.get(name) {
            Some(place) => pairs[*place].1 = value,
            None => {
                places.insert(name, pairs.len());
                pairs.push((name.to_owned(), value));
            }
        }
    }
    Ok(pairs)
}

/// Exactly `count` pairs: the first of `pairs`, and when they are used up the same again under
/// `1/`, `2/` and so on.
///
/// # Errors
/// If there is nothing to repeat, or a key becomes too long.
pub fn repeat(pairs: &Pairs, count: usize) -> Result<Pairs, String> {
    if pairs.is_empty() && count > 0 {
        return Err("there are no keys in it".into());
    }
    let mut seen = BTreeSet::new();
    let mut repeated = Pairs::with_capacity(count);
    for round in 0.. {
        for (name, value) in pairs {
            if repeated.len() == count {
                return Ok(repeated);
            }
            let name = if round == 0 { name.clone() } else { format!("{round}/{name}") };
            key::check(name.as_bytes())?;
            // A file may have such a name of its own.
            if seen.insert(name.clone()) {
                repeated.push((name, value.clone()));
            }
        }
    }
    unreachable!("rounds don't end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_pairs() {
        let pairs = parse("# c\n\nhttp/tcp\t80\nssh/tcp   22 \nhttp/tcp 8080\nname two words\n");
        let expected = [("http/tcp", "8080"), ("ssh/tcp", "22"), ("name", "two words")];
        let expected: Pairs =
            expected.iter().map(|(k, v)| ((*k).to_owned(), Bytes::from(*v))).collect();
        assert_eq!(pairs.unwrap(), expected);
        assert!(parse("a b\nalone\n").unwrap_err().contains("line 2"));
        assert!(parse(&format!("{} v", "k".repeat(513))).is_err());
    }

    #[test]
    fn they_repeat_under_numbers_each_key_once() {
        let pairs = parse("a 1\n1/a 2\nb 3").unwrap();
        let names: Vec<_> = repeat(&pairs, 7).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "1/a", "b", "1/1/a", "1/b", "2/a", "2/1/a"]);
        assert_eq!(repeat(&pairs, 2).unwrap().len(), 2);
        assert!(repeat(&Pairs::new(), 1).is_err());
    }

    #[test]
    fn the_embedded_services_are_well_known_and_unique() {
        let pairs = parse(SERVICES).unwrap();
        let lines = SERVICES.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).count();
        assert_eq!(pairs.len(), lines, "a name is there twice");
        assert!(pairs.len() >= 300);
        for (name, port) in &pairs {
            let (_, protocol) = name.split_once('/').expect("name/protocol");
            assert!(["tcp", "udp", "sctp"].contains(&protocol), "{name}");
            assert!(std::str::from_utf8(port).unwrap().parse::<u16>().unwrap() > 0, "{name}");
        }
        assert!(pairs.contains(&("http/tcp".into(), Bytes::from("80"))));
    }
}
