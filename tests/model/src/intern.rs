//! Large values as small numbers, and pure functions that are computed once.
//!
//! A model visits hundreds of thousands of combinations of a few thousand local states. Each of these is kept once,
//! under a number that stands for its *meaning*: what the rules can tell apart. So a combination is a few integers,
//! and what a shipped function makes of a local state is asked once.

use std::collections::HashMap;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Stands for a value of an [`Interner`].
pub struct Id<T>(u32, PhantomData<fn() -> T>);

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Id<T> {}
impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<T> Hash for Id<T> {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        self.0.hash(hasher);
    }
}
impl<T> std::fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Id<T> {
    /// The number.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Values by their meaning.
pub struct Interner<T> {
    inner: Mutex<Known<T>>,
}

struct Known<T> {
    numbers: HashMap<Vec<u8>, u32>,
    values: Vec<Arc<T>>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        let known = Known {
            numbers: HashMap::new(),
            values: Vec::new(),
        };
        Self {
            inner: Mutex::new(known),
        }
    }
}

impl<T> Interner<T> {
    /// The number of the value with this meaning; the first value that has it is kept.
    pub fn put(&self, meaning: Vec<u8>, value: T) -> Id<T> {
        let mut known = lock(&self.inner);
        let next = known.values.len() as u32;
        let number = *known.numbers.entry(meaning).or_insert(next);
        if number == next {
            known.values.push(Arc::new(value));
        }
        Id(number, PhantomData)
    }

    /// The value of a number.
    pub fn get(&self, id: Id<T>) -> Arc<T> {
        Arc::clone(&lock(&self.inner).values[id.0 as usize])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        lock(&self.inner).values.len()
    }

    /// True before the first one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Results of a pure function.
pub struct Memo<K, V>(Mutex<HashMap<K, V>>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Memo<K, V> {
    /// The result for `key`, if it was computed before.
    pub fn known(&self, key: &K) -> Option<V> {
        lock(&self.0).get(key).cloned()
    }

    /// The result for `key`, computed if this is the first time.
    pub fn of(&self, key: &K, compute: impl FnOnce() -> V) -> V {
        if let Some(known) = lock(&self.0).get(key) {
            return known.clone();
        }
        let value = compute();
        lock(&self.0).insert(key.clone(), value.clone());
        value
    }
}
