//! A walker over the running kernel's BTF (Documentation/bpf/btf.rst).
//!
//! aya-obj parses BTF into owned structures (tens of ms, tens of MB) and keeps members private; btf-rs is LGPL. ctrace
//! asks for some forty names: one pass over the strings finds where those names stand, one over the types finds their
//! ids, in about 3 ms and no memory beyond an index.

use std::collections::HashMap;

use thiserror::Error;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    #[error("not BTF: {0}")]
    Malformed(&'static str),
}

const MAGIC: u16 = 0xeb9f;

mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// What a type is, as far as ctrace asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Struct,
    Pointer,
    Array { elements: u32 },
    Other,
}

/// A member of a struct: where it is, and its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the outermost struct.
    pub offset: u32,
    type_id: u32,
}

/// The names that can be asked for, of one BTF blob.
pub struct Btf<'a> {
    data: &'a [u8],
    /// Where each type stands in `data`; index 0 is `void`.
    types: Vec<u32>,
    strings: usize,
    strings_end: usize,
    /// (name, of what it is one) to type id, of the names that `parse` was given.
    named: HashMap<(String, Namespace), u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Namespace {
    Struct,
    Typedef,
    Enum,
    Function,
}

#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u32,
    len: usize,
    bitfields: bool,
    /// Size in bytes, or the type referred to.
    word: u32,
}

impl<'a> Btf<'a> {
    /// Indexes `data`; only structs, enums, typedefs and functions of the `wanted` names can be found later.
    pub fn parse(data: &'a [u8], wanted: &[&str]) -> Result<Self, BtfError> {
        let word = |at: usize| word(data, at).ok_or(BtfError::Malformed("cut short"));
        if data.get(..2).is_none_or(|magic| magic != MAGIC.to_le_bytes()) {
            return Err(BtfError::Malformed("no magic number"));
        }
        let header = word(4)? as usize;
        let (types_at, types_len) = (header + word(8)? as usize, word(12)? as usize);
        let (strings, strings_len) = (header + word(16)? as usize, word(20)? as usize);
        let strings_end = strings + strings_len;
        if types_at + types_len > data.len() || strings_end > data.len() {
            return Err(BtfError::Malformed("sections beyond the end"));
        }
        let names = positions(&data[strings..strings_end], wanted);
        let mut btf =
            Self { types: vec![u32::MAX], strings, strings_end, named: HashMap::with_capacity(names.len()), data };
        btf.types.reserve(types_len / 30);
        let (mut at, end) = (types_at, types_at + types_len);
        while at < end {
            let this = btf.read(at).ok_or(BtfError::Malformed("a type is cut short"))?;
            let id = btf.types.len() as u32;
            btf.types.push(at as u32);
            let namespace = match this.kind {
                kind::STRUCT | kind::UNION => Some(Namespace::Struct),
                kind::TYPEDEF => Some(Namespace::Typedef),
                kind::ENUM | kind::ENUM64 => Some(Namespace::Enum),
                kind::FUNC => Some(Namespace::Function),
                _ => None,
            };
            // An enum without a name goes by its first enumerator's.
            let is_nameless = this.name == 0 && this.len > 0 && namespace == Some(Namespace::Enum);
            let name = if is_nameless { word(at + 12)? } else { this.name };
            if let Some(namespace) = namespace
                && let Ok(found) = names.binary_search_by_key(&name, |(at, _)| *at)
            {
                btf.named.entry((names[found].1.to_owned(), namespace)).or_insert(id);
            }
            at += 12 + trailing(this.kind, this.len).ok_or(BtfError::Malformed("a type of unknown kind"))?;
        }
        Ok(btf)
    }

    /// The member that `path` names, `struct.member.member…`, through nested and anonymous structs and unions.
    pub fn member(&self, path: &str) -> Option<Member> {
        let mut parts = path.split('.');
        let mut type_id = *self.named.get(&(parts.next()?.to_owned(), Namespace::Struct))?;
        let mut offset = 0;
        for part in parts {
            let found = self.direct(type_id, part, 0)?;
            offset += found.offset;
            type_id = found.type_id;
        }
        Some(Member { offset, type_id })
    }

    /// The first of `a|b|…` that exists.
    pub fn first_member(&self, paths: &str) -> Option<Member> {
        paths.split('|').find_map(|path| self.member(path))
    }

    pub fn shape(&self, member: Member) -> Shape {
        match self.resolve(member.type_id) {
            Some(found) if found.kind == kind::STRUCT || found.kind == kind::UNION => Shape::Struct,
            Some(found) if found.kind == kind::PTR => Shape::Pointer,
            Some(found) if found.kind == kind::ARRAY => {
                Shape::Array { elements: self.word(found.at + 20).unwrap_or(0) }
            }
            _ => Shape::Other,
        }
    }

    /// The shape of an array's element.
    pub fn element_shape(&self, member: Member) -> Option<Shape> {
        let array = self.resolve(member.type_id).filter(|found| found.kind == kind::ARRAY)?;
        Some(self.shape(Member { offset: 0, type_id: self.word(array.at + 12)? }))
    }

    /// `sizeof(struct name)`.
    pub fn size(&self, name: &str) -> Option<u32> {
        let id = *self.named.get(&(name.to_owned(), Namespace::Struct))?;
        Some(self.get(id)?.word)
    }

    /// The enumerators of `enum name`, in the kernel's order; of one without a name by the name of the first.
    pub fn enumerators(&self, name: &str) -> Option<Vec<(&str, i64)>> {
        let id = *self.named.get(&(name.to_owned(), Namespace::Enum))?;
        let found = self.get(id)?;
        let stride = if found.kind == kind::ENUM64 { 12 } else { 8 };
        (0..found.len)
            .map(|i| {
                let entry = found.at + 12 + stride * i;
                Some((self.string(self.word(entry)?)?, i64::from(self.word(entry + 4)? as i32)))
            })
            .collect()
    }

    pub fn enumerator(&self, name: &str, enumerator: &str) -> Option<i64> {
        self.enumerators(name)?.into_iter().find_map(|(found, value)| (found == enumerator).then_some(value))
    }

    /// The id of a struct.
    pub fn structure(&self, name: &str) -> Option<u32> {
        self.named.get(&(name.to_owned(), Namespace::Struct)).copied()
    }

    /// The id of a function.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.named.get(&(name.to_owned(), Namespace::Function)).copied()
    }

    /// The id of the typedef `name`.
    pub fn typedef(&self, name: &str) -> Option<u32> {
        self.named.get(&(name.to_owned(), Namespace::Typedef)).copied()
    }

    /// The arguments of a tracepoint after its context pointer: for each, the struct it points to, or `None`.
    pub fn tracepoint_arguments(&self, tracepoint: &str) -> Option<Vec<Option<&str>>> {
        let id = self.typedef(&format!("btf_trace_{tracepoint}"))?;
        let pointer = self.resolve(id).filter(|found| found.kind == kind::PTR)?;
        let proto = self.resolve(pointer.word).filter(|found| found.kind == kind::FUNC_PROTO)?;
        (1..proto.len)
            .map(|i| {
                let type_id = self.word(proto.at + 12 + 8 * i + 4)?;
                Some(self.resolve(type_id).filter(|found| found.kind == kind::PTR).and_then(|pointer| {
                    let pointee = self.resolve(pointer.word)?;
                    self.string(pointee.name).filter(|name| !name.is_empty())
                }))
            })
            .collect()
    }

    /// A member of one struct, or of a struct or union without a name within it.
    fn direct(&self, type_id: u32, name: &str, depth: u32) -> Option<Member> {
        if depth > 8 {
            return None;
        }
        let outer = self.resolve(type_id).filter(|found| found.kind == kind::STRUCT || found.kind == kind::UNION)?;
        let mut anonymous = Vec::new();
        for i in 0..outer.len {
            let entry = outer.at + 12 + 12 * i;
            let (name_at, inner, bits) = (self.word(entry)?, self.word(entry + 4)?, self.word(entry + 8)?);
            let offset = if outer.bitfields { bits & 0xff_ffff } else { bits } / 8;
            if name_at == 0 {
                anonymous.push(Member { offset, type_id: inner });
            } else if self.string(name_at)? == name {
                return Some(Member { offset, type_id: inner });
            }
        }
        anonymous.into_iter().find_map(|holder| {
            let found = self.direct(holder.type_id, name, depth + 1)?;
            Some(Member { offset: holder.offset + found.offset, ..found })
        })
    }

    /// Behind typedefs, const and the like.
    fn resolve(&self, mut type_id: u32) -> Option<Type> {
        for _ in 0..32 {
            let found = self.get(type_id)?;
            match found.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => type_id = found.word,
                _ => return Some(found),
            }
        }
        None
    }

    fn get(&self, type_id: u32) -> Option<Type> {
        self.read(*self.types.get(type_id as usize)? as usize)
    }

    fn read(&self, at: usize) -> Option<Type> {
        let info = self.word(at + 4)?;
        Some(Type {
            at,
            name: self.word(at)?,
            kind: info >> 24 & 31,
            len: (info & 0xffff) as usize,
            bitfields: info >> 31 == 1,
            word: self.word(at + 8)?,
        })
    }

    fn word(&self, at: usize) -> Option<u32> {
        word(self.data, at)
    }

    fn string(&self, offset: u32) -> Option<&str> {
        let text = self.data.get(self.strings + offset as usize..self.strings_end)?;
        let end = text.iter().position(|&byte| byte == 0)?;
        str::from_utf8(&text[..end]).ok()
    }
}

/// Bytes behind the 12 that every type starts with; `None` for a kind that this walker has not met.
fn trailing(of: u32, len: usize) -> Option<usize> {
    Some(match of {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * len,
        kind::ENUM | kind::FUNC_PROTO => 8 * len,
        0..=18 => 0,
        _ => return None,
    })
}

/// Where the wanted names stand in the string section, in order. The section holds each string once.
fn positions<'a>(strings: &[u8], wanted: &[&'a str]) -> Vec<(u32, &'a str)> {
    let by_text: HashMap<&[u8], &'a str> = wanted.iter().map(|name| (name.as_bytes(), *name)).collect();
    // A hundred thousand strings pass here: few get as far as being hashed.
    let mut likely = [0_u64; 256];
    let mark_of = |text: &[u8]| Some((usize::from(*text.first()?), 1_u64 << (text.len() % 64)));
    for (first, length) in wanted.iter().filter_map(|name| mark_of(name.as_bytes())) {
        likely[first] |= length;
    }
    let mut found = Vec::with_capacity(wanted.len());
    let mut at = 0;
    for end in memchr::memchr_iter(0, strings) {
        let text = &strings[at..end];
        if mark_of(text).is_some_and(|(first, length)| likely[first] & length != 0)
            && let Some(name) = by_text.get(text)
        {
            found.push((at as u32, *name));
        }
        at = end + 1;
    }
    found
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn this_kernel() -> Option<Vec<u8>> {
        std::fs::read("/sys/kernel/btf/vmlinux").ok()
    }

    #[test]
    fn finds_members_through_nested_and_anonymous_structs() {
        let Some(data) = this_kernel() else { return };
        let btf = Btf::parse(
            &data,
            &["task_struct", "mem_cgroup", "cgroup_subsys_id", "btf_trace_sched_process_exit", "SB_UNFROZEN"],
        )
        .unwrap();
        let tgid = btf.member("task_struct.tgid").unwrap();
        assert!(tgid.offset > 0 && tgid.offset < 8192);
        // `swap` and `memsw` share an anonymous union.
        assert_eq!(btf.member("mem_cgroup.memsw.usage"), btf.member("mem_cgroup.swap.usage"));
        assert!(btf.member("mem_cgroup.memory.max").unwrap().offset > btf.member("mem_cgroup.memory").unwrap().offset);
        assert_eq!(btf.member("task_struct.no_such_member"), None);
        assert_eq!(btf.member("no_such_struct.x"), None);
        assert!(btf.enumerator("cgroup_subsys_id", "memory_cgrp_id").is_some());
        // An enum without a name, include/linux/fs.h.
        assert_eq!(btf.enumerator("SB_UNFROZEN", "SB_FREEZE_WRITE"), Some(1));
        assert_eq!(btf.enumerator("SB_UNFROZEN", "BIO_PAGE_PINNED"), None);
        assert_eq!(btf.tracepoint_arguments("sched_process_exit").unwrap()[0], Some("task_struct"));
    }

    #[test]
    fn refuses_what_is_not_btf() {
        assert!(Btf::parse(&[], &[]).is_err());
        assert!(Btf::parse(&[0x9f, 0xeb], &[]).is_err());
        let mut cut = vec![0; 64];
        cut[..2].copy_from_slice(&MAGIC.to_le_bytes());
        cut[4] = 24;
        cut[12] = 200;
        assert!(Btf::parse(&cut, &[]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics_on_any_bytes(mut data in proptest::collection::vec(any::<u8>(), 24..512), types in 0u32..300, strings in 0u32..300) {
            data[..2].copy_from_slice(&MAGIC.to_le_bytes());
            data[4..8].copy_from_slice(&24u32.to_le_bytes());
            data[8..12].copy_from_slice(&0u32.to_le_bytes());
            data[12..16].copy_from_slice(&types.to_le_bytes());
            data[16..20].copy_from_slice(&types.to_le_bytes());
            data[20..24].copy_from_slice(&strings.to_le_bytes());
            if let Ok(btf) = Btf::parse(&data, &["", "a"]) {
                let _ = btf.member("a.a");
                let _ = btf.enumerators("a");
                let _ = btf.tracepoint_arguments("a");
            }
        }
    }
}
