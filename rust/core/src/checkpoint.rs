//! What a restart needs: the watermark, one mark a lane, window state; and its stored form.
//!
//! A lane completes its records in order, so what a lane has completed is always a prefix, and one position tells it. Stuck lanes
//! therefore cost nothing: a checkpoint has at most one position a lane, however far the lanes are apart.
//!
//! This module does not decide what is complete; `marks` does.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::position::{Position, SequenceNumber};
use crate::window::{WindowPhase, WindowState};

const MAGIC: &[u8; 8] = b"strmckpt";
/// The newest version of the stored form that this crate reads. It writes it where there is a tumbling window, and version 1 else, so
/// that other mappings may go back to an older streamcore.
pub const CHECKPOINT_FORMAT: u16 = 2;
const FORMAT_WITHOUT_WINDOW: u16 = 1;

/// Names one checkpoint: a shard of one incarnation of a stream, read by one mapping.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CheckpointKey {
    /// The mapping's UUID.
    pub mapping_uuid: String,
    /// Tells incarnations of a stream of the same name apart: a creation time, a stream label.
    pub stream_identity: String,
    /// The shard's name.
    pub shard_id: String,
}

/// Where a shard was begun; holds as long as it has no watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The oldest record that the stream still has.
    TrimHorizon,
    /// The tip as it was at this instant (milliseconds since the epoch), so that a restart of a quiet shard skips nothing.
    Latest(i64),
    /// The first record that arrived at this instant (milliseconds since the epoch) or later.
    AtTimestamp(i64),
}

/// The last completed record of each lane, with what decides which lane a key is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneTag {
    /// The version of the lane function.
    pub lane_function: u16,
    /// For each lane its last completed record; as many as the `ParallelizationFactor` was.
    pub marks: Vec<Option<Position>>,
}

/// One consistent snapshot of a shard.
///
/// ```
/// use streamcore::{Checkpoint, CheckpointKey, Start};
///
/// let key = CheckpointKey {
///     mapping_uuid: "14e0db71-16d6-4c24-9ca2-1f7a1a2b3c4d".into(),
///     stream_identity: "1700000000.000".into(),
///     shard_id: "shardId-000000000000".into(),
/// };
/// let checkpoint = Checkpoint::fresh(key, Start::TrimHorizon);
/// let blob = checkpoint.encode();
/// assert_eq!(Checkpoint::decode(&blob).unwrap(), checkpoint);
/// assert!(Checkpoint::decode(&blob[1..]).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose checkpoint this is. It travels inside, so that it can never be taken for another shard's.
    pub key: Arc<CheckpointKey>,
    /// Where the shard was begun.
    pub start: Start,
    /// Every record at or below it is complete. None before the first one is.
    pub watermark: Option<Position>,
    /// The current lanes; None in the checkpoint of a shard that has not run.
    pub lanes: Option<LaneTag>,
    /// Those of former factors whose marks the watermark has not passed; none where there are no current ones.
    pub former: Vec<LaneTag>,
    /// The last tumbling window, if there was one, with the state that belongs to the completed records.
    pub window: Option<Arc<WindowState>>,
    /// The shard is closed and everything in it is complete.
    pub ended: bool,
}

/// A stored checkpoint that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes do not begin as a checkpoint does.
    #[error("not a streamcore checkpoint")]
    NotOurs,
    /// A newer streamcore wrote it.
    #[error(
        "the checkpoint has format {found}, and this version reads formats up to {CHECKPOINT_FORMAT}"
    )]
    Newer {
        /// The format of the bytes.
        found: u16,
    },
    /// Bytes are missing or changed.
    #[error("the checkpoint is damaged: {what}")]
    Damaged {
        /// What does not fit.
        what: &'static str,
    },
    /// It is the checkpoint of something else.
    #[error(
        "the checkpoint is of shard {found_shard:?} of stream {found_stream:?}, not of shard {shard:?} of stream {stream:?}"
    )]
    OtherShard {
        /// The shard that the checkpoint names.
        found_shard: String,
        /// The stream identity that the checkpoint names.
        found_stream: String,
        /// The shard asked for.
        shard: String,
        /// The stream identity asked for.
        stream: String,
    },
}

impl Checkpoint {
    /// The checkpoint of a shard of which nothing is complete.
    #[must_use]
    pub fn fresh(key: impl Into<Arc<CheckpointKey>>, start: Start) -> Self {
        Self {
            key: key.into(),
            start,
            watermark: None,
            lanes: None,
            former: Vec::new(),
            window: None,
            ended: false,
        }
    }

    /// Moves the checkpoint: reading begins at `start`, or after `watermark` if one is given, and nothing beyond is complete.
    pub fn rewind(&mut self, start: Start, watermark: Option<Position>) {
        *self = Self {
            watermark,
            ..Self::fresh(Arc::clone(&self.key), start)
        };
    }

    /// The current lanes, then those of former factors.
    pub fn tags(&self) -> impl Iterator<Item = &LaneTag> {
        self.lanes.iter().chain(&self.former)
    }

    /// The stored form: magic, format version, content, checksum.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(MAGIC);
        let format = match self.window {
            Some(_) => CHECKPOINT_FORMAT,
            None => FORMAT_WITHOUT_WINDOW,
        };
        out.extend_from_slice(&format.to_le_bytes());
        put_bytes(&mut out, self.key.mapping_uuid.as_bytes());
        put_bytes(&mut out, self.key.stream_identity.as_bytes());
        put_bytes(&mut out, self.key.shard_id.as_bytes());
        let (kind, at) = match self.start {
            Start::TrimHorizon => (0, 0),
            Start::Latest(at) => (1, at),
            Start::AtTimestamp(at) => (2, at),
        };
        out.push(kind);
        out.extend_from_slice(&at.to_le_bytes());
        put_position(&mut out, self.watermark.as_ref());
        put_len(&mut out, self.tags().count());
        for tag in self.tags() {
            out.extend_from_slice(&tag.lane_function.to_le_bytes());
            put_len(&mut out, tag.marks.len());
            for mark in &tag.marks {
                put_position(&mut out, mark.as_ref());
            }
        }
        out.push(u8::from(self.window.is_some()));
        if let Some(window) = &self.window {
            out.extend_from_slice(&window.start_ms.to_le_bytes());
            out.extend_from_slice(&window.end_ms.to_le_bytes());
            out.push(match window.phase {
                WindowPhase::Open => 0,
                WindowPhase::Closed => 1,
                WindowPhase::EndsEarly => 2,
                WindowPhase::Restarted => 3,
            });
            put_bytes(&mut out, &window.state);
        }
        out.push(u8::from(self.ended));
        let checksum = xxh3_64(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    ///
    /// The bytes are not a checkpoint, were written by a newer version, or are damaged.
    pub fn decode(blob: &[u8]) -> Result<Self, CheckpointError> {
        if blob.get(..8) != Some(MAGIC) {
            return Err(CheckpointError::NotOurs);
        }
        let mut whole = Reader { rest: &blob[8..] };
        let found = u16::from_le_bytes(whole.array()?);
        if found > CHECKPOINT_FORMAT {
            return Err(CheckpointError::Newer { found });
        }
        let Some((content, checksum)) = blob.split_last_chunk::<8>() else {
            return Err(CheckpointError::Damaged {
                what: "it is cut short",
            });
        };
        if content.len() < 10 || xxh3_64(content) != u64::from_le_bytes(*checksum) {
            return Err(CheckpointError::Damaged {
                what: "the checksum does not match",
            });
        }
        let mut from = Reader {
            rest: &content[10..],
        };
        let checkpoint = from.checkpoint(found)?;
        if !from.rest.is_empty() {
            return Err(CheckpointError::Damaged {
                what: "there are bytes behind its end",
            });
        }
        Ok(checkpoint)
    }

    /// Tells whether this is the checkpoint of `key`.
    ///
    /// # Errors
    ///
    /// It is the checkpoint of another mapping, stream or shard.
    pub fn require_key(&self, key: &CheckpointKey) -> Result<(), CheckpointError> {
        if *self.key == *key {
            return Ok(());
        }
        let name =
            |key: &CheckpointKey| format!("{} (mapping {})", key.stream_identity, key.mapping_uuid);
        Err(CheckpointError::OtherShard {
            found_shard: self.key.shard_id.clone(),
            found_stream: name(&self.key),
            shard: key.shard_id.clone(),
            stream: name(key),
        })
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    // Lengths here are of texts, lanes and window states, all far below 4 GiB; a longer one would be a bug of the caller.
    let len = u32::try_from(len).expect("a part of a checkpoint is below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_position(out: &mut Vec<u8>, position: Option<&Position>) {
    out.push(u8::from(position.is_some()));
    if let Some(position) = position {
        put_bytes(out, position.sequence.as_bytes());
        out.extend_from_slice(&position.sub.to_le_bytes());
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn checkpoint(&mut self, format: u16) -> Result<Checkpoint, CheckpointError> {
        let key = Arc::new(CheckpointKey {
            mapping_uuid: self.text()?,
            stream_identity: self.text()?,
            shard_id: self.text()?,
        });
        let kind = self.array::<1>()?[0];
        let at = i64::from_le_bytes(self.array()?);
        let start = match kind {
            0 => Start::TrimHorizon,
            1 => Start::Latest(at),
            2 => Start::AtTimestamp(at),
            _ => {
                return Err(CheckpointError::Damaged {
                    what: "unknown start",
                });
            }
        };
        let watermark = self.position()?;
        let tags = self.len()?;
        let lanes = (tags > 0).then(|| self.tag()).transpose()?;
        let former = (1..tags).map(|_| self.tag()).collect::<Result<_, _>>()?;
        let window = if self.flag()? {
            Some(Arc::new(self.window(format)?))
        } else {
            None
        };
        Ok(Checkpoint {
            key,
            start,
            watermark,
            lanes,
            former,
            window,
            ended: self.flag()?,
        })
    }

    fn tag(&mut self) -> Result<LaneTag, CheckpointError> {
        let lane_function = u16::from_le_bytes(self.array()?);
        let marks = (0..self.len()?).map(|_| self.position());
        Ok(LaneTag {
            lane_function,
            marks: marks.collect::<Result<_, _>>()?,
        })
    }

    fn window(&mut self, format: u16) -> Result<WindowState, CheckpointError> {
        let start_ms = i64::from_le_bytes(self.array()?);
        // Format 1 does not say where a window ends. None was ever written; one would be closed before the next record.
        let end_ms = if format == FORMAT_WITHOUT_WINDOW {
            start_ms
        } else {
            i64::from_le_bytes(self.array()?)
        };
        let phase = match self.array::<1>()?[0] {
            0 => WindowPhase::Open,
            1 => WindowPhase::Closed,
            2 => WindowPhase::EndsEarly,
            3 => WindowPhase::Restarted,
            _ => {
                return Err(CheckpointError::Damaged {
                    what: "unknown phase of a window",
                });
            }
        };
        Ok(WindowState {
            start_ms,
            end_ms,
            phase,
            state: self.bytes()?.to_vec(),
        })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], CheckpointError> {
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(CheckpointError::Damaged {
                what: "it is cut short",
            })?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| CheckpointError::Damaged {
            what: "it is cut short",
        })
    }

    fn flag(&mut self) -> Result<bool, CheckpointError> {
        match self.array::<1>()?[0] {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CheckpointError::Damaged {
                what: "unknown flag",
            }),
        }
    }

    fn len(&mut self) -> Result<usize, CheckpointError> {
        let len = u32::from_le_bytes(self.array()?);
        usize::try_from(len).map_err(|_| CheckpointError::Damaged {
            what: "a length is too large",
        })
    }

    fn bytes(&mut self) -> Result<&'a [u8], CheckpointError> {
        let len = self.len()?;
        self.take(len)
    }

    fn text(&mut self) -> Result<String, CheckpointError> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| CheckpointError::Damaged {
            what: "a text is not UTF-8",
        })
    }

    fn position(&mut self) -> Result<Option<Position>, CheckpointError> {
        if !self.flag()? {
            return Ok(None);
        }
        let sequence =
            SequenceNumber::parse(&self.text()?).map_err(|_| CheckpointError::Damaged {
                what: "a sequence number is not a number",
            })?;
        let sub = u32::from_le_bytes(self.array()?);
        Ok(Some(Position { sequence, sub }))
    }
}
