//! The text of a page: its own, or the body of the answer as whoever received it holds it.

use std::ops::Deref;

use bytes::Bytes;
use bytestring::ByteString;

/// UTF-8 text that need not be copied to be kept.
#[derive(Debug, Clone)]
pub(crate) enum Text {
    /// Written by the page.
    Own(String),
    /// Somebody else's memory, which stays as it is for as long as it is kept.
    Shared(ByteString),
}

impl Text {
    /// Keep a body.
    ///
    /// # Errors
    ///
    /// Where it is not UTF-8: the offset of the first byte that is not.
    pub(crate) fn shared(body: Bytes) -> Result<Self, usize> {
        let text = ByteString::try_from(body).map_err(|error| error.valid_up_to())?;
        Ok(Self::Shared(text))
    }

    /// The memory that it takes, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        match self {
            Self::Own(text) => text.capacity(),
            Self::Shared(text) => text.len(),
        }
    }

    /// The text to be changed: a copy where it is not the page's own.
    pub(crate) fn to_mut(&mut self) -> &mut String {
        if let Self::Shared(text) = self {
            *self = Self::Own(text.to_string());
        }
        match self {
            Self::Own(text) => text,
            Self::Shared(_) => unreachable!("it has just been copied"),
        }
    }
}

impl Deref for Text {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        match self {
            Self::Own(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::Own(text)
    }
}
