//! Buffers that are used again by the thread that lets go of them.
//!
//! A firing fills three or four, of some hundred bytes each. Those of a hundred firings at once are more than an
//! allocator keeps at hand: it takes them apart and puts them together again, and the next ones lie in memory that is
//! in no cache.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// How many a thread keeps.
const KEPT: usize = 256;

/// A buffer with more room is not kept, so that a thread keeps 256 KiB at most.
const LARGEST: usize = 1024;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn take(room: usize) -> Vec<u8> {
    // Without it at the end of a thread, and while it is borrowed, which it never is here.
    let spare = SPARE.try_with(|spare| spare.try_borrow_mut().ok()?.pop()).ok().flatten();
    let mut buffer = spare.unwrap_or_default();
    buffer.reserve(room);
    buffer
}

fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > LARGEST {
        return;
    }
    buffer.clear();
    // Not kept at the end of a thread: it is freed.
    let _ = SPARE.try_with(|spare| {
        if let Ok(mut spare) = spare.try_borrow_mut()
            && spare.len() < KEPT
        {
            spare.push(buffer);
        }
    });
}

/// Bytes in a buffer that is used again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes(Vec<u8>);

impl Bytes {
    /// Empty, with room for this many bytes at least.
    pub(crate) fn with_room(bytes: usize) -> Self {
        Self(take(bytes))
    }
}

impl Clone for Bytes {
    fn clone(&self) -> Self {
        let mut copy = Self::with_room(self.len());
        copy.extend_from_slice(self);
        copy
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0));
    }
}

impl Deref for Bytes {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

/// Text in a buffer that is used again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(String);

impl Text {
    /// Empty, with room for this many bytes at least.
    pub(crate) fn with_room(bytes: usize) -> Self {
        // It is empty, which is text.
        Self(String::from_utf8(take(bytes)).unwrap_or_default())
    }
}

impl Clone for Text {
    fn clone(&self) -> Self {
        let mut copy = Self::with_room(self.len());
        copy.push_str(self);
        copy
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0).into_bytes());
    }
}

impl Deref for Text {
    type Target = String;

    fn deref(&self) -> &String {
        &self.0
    }
}

impl DerefMut for Text {
    fn deref_mut(&mut self) -> &mut String {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many this thread keeps.
    fn kept() -> usize {
        SPARE.with(|spare| spare.borrow().len())
    }

    /// On a thread of its own, with nothing kept.
    fn alone(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().expect("what is asserted");
    }

    #[test]
    fn a_buffer_is_used_again_empty_and_with_room() {
        alone(|| {
            let mut bytes = Bytes::with_room(100);
            bytes.extend_from_slice(b"secret");
            let place = bytes.as_ptr();
            drop(bytes);
            let mut text = Text::with_room(50);
            assert_eq!((text.as_ptr(), text.len(), kept()), (place, 0, 0));
            assert!(text.capacity() >= 100);
            text.push_str("text");
            let copy = text.clone();
            assert!(copy == text && copy.as_ptr() != place);
            drop((text, copy));
            let bytes = Bytes::with_room(500);
            assert!(bytes.is_empty() && bytes.capacity() >= 500 && kept() == 1);
        });
    }

    #[test]
    fn no_more_than_so_many_are_kept_and_none_that_are_large_or_nothing() {
        alone(|| {
            drop(Bytes::default());
            drop(Text::default());
            drop(Bytes::with_room(LARGEST + 1));
            assert_eq!(kept(), 0);
            let many: Vec<Bytes> = (0..KEPT + 9).map(|_| Bytes::with_room(10)).collect();
            drop(many);
            assert_eq!(kept(), KEPT);
        });
    }

    #[test]
    fn one_that_is_let_go_elsewhere_stays_there() {
        alone(|| {
            let bytes = Bytes::with_room(10);
            let there = std::thread::spawn(move || (drop(bytes), kept()).1);
            assert_eq!((there.join().expect("a thread"), kept()), (1, 0));
        });
    }
}
