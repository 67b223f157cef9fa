//! How what has no form in JSON of its own is written into recordings, and comes back.
//!
//! Names that are constants of the code (a probe's, a field's, a kind's) come back as constants: each is kept once, for
//! ever. A file may be hostile, so there is an end to how many, and to how long.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::Unknown;

/// A constant of the code.
pub type Name = &'static str;

/// All names of the code are some hundreds.
const NAMES: usize = 4096;
const NAME_BYTES: usize = 128;

static KEPT: Mutex<BTreeSet<Name>> = Mutex::new(BTreeSet::new());

/// `None` where it is too long, or one too many.
fn kept(name: &str) -> Option<Name> {
    let mut names = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return Some(known);
    }
    if name.len() > NAME_BYTES || names.len() >= NAMES {
        return None;
    }
    let name: Name = Box::leak(Box::from(name));
    names.insert(name);
    Some(name)
}

fn known<E: Error>(name: &str) -> Result<Name, E> {
    kept(name).ok_or_else(|| E::custom("a name that no ctrace writes"))
}

pub fn name<'de, D: Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
    known(&String::deserialize(from)?)
}

pub fn optional_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Name>, D::Error> {
    Option::<String>::deserialize(from)?.map(|name| known(&name)).transpose()
}

pub fn names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Name>, D::Error> {
    Vec::<String>::deserialize(from)?.iter().map(|name| known(name)).collect()
}

pub fn unknown<'de, D: Deserializer<'de>>(from: D) -> Result<Unknown, D::Error> {
    let fields = BTreeMap::<String, String>::deserialize(from)?;
    fields.into_iter().map(|(field, why)| Ok((known(&field)?, why))).collect()
}

/// Bytes, as base64.
pub mod binary {
    use super::{Bytes, Deserialize, Deserializer, Engine, Error, STANDARD, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Bytes, into: S) -> Result<S::Ok, S::Error> {
        into.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map(Bytes::from).map_err(D::Error::custom)
    }
}

/// Bytes of a fixed number, as base64.
pub mod array {
    use super::{Deserialize, Deserializer, Engine, Error, STANDARD, Serializer};

    pub fn serialize<const N: usize, S: Serializer>(bytes: &[u8; N], into: S) -> Result<S::Ok, S::Error> {
        into.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(from: D) -> Result<[u8; N], D::Error> {
        let bytes = STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom("another number of bytes"))
    }
}

/// A map whose keys are no strings, as a list of pairs.
pub mod pairs {
    use super::{BTreeMap, Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        into: S,
    ) -> Result<S::Ok, S::Error> {
        into.collect_seq(map)
    }

    pub fn deserialize<'de, K, V, D>(from: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::deserialize(from)?.into_iter().collect())
    }
}
