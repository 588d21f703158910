//! The text of a page: its own, or the body of the answer as whoever received it holds it.

use std::ops::Deref;

use bytes::Bytes;

/// Text that need not be copied to be kept. It is UTF-8: whoever makes it has looked.
#[derive(Debug, Clone)]
pub(crate) enum Text {
    /// Written by the page.
    Own(Vec<u8>),
    /// Somebody else's memory, which stays as it is for as long as it is kept.
    Shared(Bytes),
}

impl Text {
    /// The memory that it takes, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        match self {
            Self::Own(text) => text.capacity(),
            Self::Shared(text) => text.len(),
        }
    }

    /// The text to be changed: a copy where it is not the page's own.
    pub(crate) fn to_mut(&mut self) -> &mut Vec<u8> {
        if let Self::Shared(text) = self {
            *self = Self::Own(text.to_vec());
        }
        match self {
            Self::Own(text) => text,
            Self::Shared(_) => unreachable!("it has just been copied"),
        }
    }
}

impl Deref for Text {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl From<Vec<u8>> for Text {
    fn from(text: Vec<u8>) -> Self {
        Self::Own(text)
    }
}
