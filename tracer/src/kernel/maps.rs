//! The maps of the kernel side, as user space reads and writes them.

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, StackTraceMap};

use super::load::Kernel;

/// A type that both sides share, in aya's terms.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Shared<T>(pub(super) T);
// SAFETY: plain bytes without padding, which is what `bytemuck::Pod` promises.
unsafe impl<T: bytemuck::Pod> aya::Pod for Shared<T> {}

/// Where the key that was read last has vanished, a walk of a map starts again: it ends after this many times its size.
const WALKS: usize = 2;

impl Kernel {
    /// One entry of a hash map of the kernel side; `None` where it is not there.
    ///
    /// # Errors
    /// There is no such map, or not of these types.
    pub fn entry<K: bytemuck::Pod, V: bytemuck::Pod>(&self, map: &str, key: K) -> Result<Option<V>> {
        match self.hash::<K, V>(map)?.get(&Shared(key), 0) {
            Ok(Shared(value)) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading the map {map}")),
        }
    }

    /// What a hash map of the kernel side holds, at most `most` entries. A map that changes meanwhile is read as far
    /// as it goes; a key may come twice.
    ///
    /// # Errors
    /// There is no such map, or not of these types.
    pub fn entries<K: bytemuck::Pod, V: bytemuck::Pod>(&self, map: &str, most: usize) -> Result<Vec<(K, V)>> {
        let entries = self.hash::<K, V>(map)?;
        Ok(entries.iter().take(WALKS * most).map_while(Result::ok).map(|(Shared(k), Shared(v))| (k, v)).collect())
    }

    /// As [`Kernel::entries`], of a per-CPU map: each value once per possible CPU.
    ///
    /// # Errors
    /// There is no such map, or not of these types.
    pub fn entries_per_cpu<K: bytemuck::Pod, V: bytemuck::Pod>(
        &self,
        map: &str,
        most: usize,
    ) -> Result<Vec<(K, Vec<V>)>> {
        let found = self.ebpf.map(map).with_context(|| format!("the kernel side has no map {map}"))?;
        let entries = PerCpuHashMap::<_, Shared<K>, Shared<V>>::try_from(found)
            .with_context(|| format!("the map {map} is of another type"))?;
        let entries = entries.iter().take(WALKS * most).map_while(Result::ok);
        Ok(entries.map(|(Shared(k), values)| (k, values.iter().map(|Shared(v)| *v).collect())).collect())
    }

    /// The one entry of a per-CPU array: once per possible CPU.
    ///
    /// # Errors
    /// There is no such map, or not of this type.
    pub fn entry_per_cpu<V: bytemuck::Pod>(&self, map: &str) -> Result<Vec<V>> {
        let found = self.ebpf.map(map).with_context(|| format!("the kernel side has no map {map}"))?;
        let array = PerCpuArray::<_, Shared<V>>::try_from(found)
            .with_context(|| format!("the map {map} is of another type"))?;
        let values = array.get(&0, 0).with_context(|| format!("reading the map {map}"))?;
        Ok(values.iter().map(|Shared(value)| *value).collect())
    }

    /// All entries of a per-CPU array, each once per possible CPU.
    ///
    /// # Errors
    /// There is no such map, or not of that type.
    pub fn array_per_cpu<V: bytemuck::Pod>(&self, map: &str) -> Result<Vec<Vec<V>>> {
        let found = self.ebpf.map(map).with_context(|| format!("the kernel side has no map {map}"))?;
        let array = PerCpuArray::<_, Shared<V>>::try_from(found)
            .with_context(|| format!("the map {map} is of another type"))?;
        let entries = (0..array.len()).map(|at| array.get(&at, 0));
        let entries = entries.map(|values| Ok(values?.iter().map(|Shared(value)| *value).collect()));
        entries.collect::<Result<_, MapError>>().with_context(|| format!("reading the map {map}"))
    }

    /// The addresses of a stack that the kernel side kept, innermost first; `None` where it has none of that key.
    ///
    /// # Errors
    /// There is no such map, or not of that type.
    pub fn stack(&self, map: &str, key: u32) -> Result<Option<Vec<u64>>> {
        let found = self.ebpf.map(map).with_context(|| format!("the kernel side has no map {map}"))?;
        let stacks = StackTraceMap::try_from(found).with_context(|| format!("the map {map} is of another type"))?;
        match stacks.get(&key, 0) {
            Ok(stack) => Ok(Some(stack.frames().iter().map(|frame| frame.ip).collect())),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading the map {map}")),
        }
    }

    /// Puts an entry into a hash map of the kernel side.
    ///
    /// # Errors
    /// There is no such map, it is full, or this process may not write it any more.
    pub fn put<K: bytemuck::Pod, V: bytemuck::Pod>(&mut self, map: &str, key: K, value: V) -> Result<()> {
        let found = self.ebpf.map_mut(map).with_context(|| format!("the kernel side has no map {map}"))?;
        let mut entries = HashMap::<_, Shared<K>, Shared<V>>::try_from(found)
            .with_context(|| format!("the map {map} is of another type"))?;
        entries.insert(Shared(key), Shared(value), 0).with_context(|| format!("writing the map {map}"))
    }

    /// Takes an entry out of a hash map of the kernel side; `false`: it was not there, which is fine.
    ///
    /// # Errors
    /// There is no such map, or this process may not write it any more.
    pub fn remove<K: bytemuck::Pod, V: bytemuck::Pod>(&mut self, map: &str, key: K) -> Result<bool> {
        let found = self.ebpf.map_mut(map).with_context(|| format!("the kernel side has no map {map}"))?;
        let mut entries = HashMap::<_, Shared<K>, Shared<V>>::try_from(found)
            .with_context(|| format!("the map {map} is of another type"))?;
        match entries.remove(&Shared(key)) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("writing the map {map}")),
        }
    }

    /// The same of a per-CPU map.
    ///
    /// # Errors
    /// As there.
    pub fn remove_per_cpu<K: bytemuck::Pod, V: bytemuck::Pod>(&mut self, map: &str, key: K) -> Result<()> {
        let found = self.ebpf.map_mut(map).with_context(|| format!("the kernel side has no map {map}"))?;
        let mut entries = PerCpuHashMap::<_, Shared<K>, Shared<V>>::try_from(found)
            .with_context(|| format!("the map {map} is of another type"))?;
        match entries.remove(&Shared(key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("writing the map {map}")),
        }
    }

    fn hash<K: bytemuck::Pod, V: bytemuck::Pod>(&self, map: &str) -> Result<HashMap<&MapData, Shared<K>, Shared<V>>> {
        let found = self.ebpf.map(map).with_context(|| format!("the kernel side has no map {map}"))?;
        HashMap::try_from(found).with_context(|| format!("the map {map} is of another type"))
    }

    /// Sets the one entry of an array of the kernel side.
    ///
    /// # Errors
    /// There is no such map, or this process may not write it.
    pub fn set<V: bytemuck::Pod>(&mut self, map: &str, value: V) -> Result<()> {
        let found = self.ebpf.map_mut(map).with_context(|| format!("the kernel side has no map {map}"))?;
        let mut array =
            Array::<_, Shared<V>>::try_from(found).with_context(|| format!("the map {map} is of another type"))?;
        array.set(0, Shared(value), 0).with_context(|| format!("writing the map {map}"))
    }
}
