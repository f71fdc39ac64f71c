//! The order of a queue or a stack: which of its values comes next.
//!
//! Values are copied under a lock, in and out, so that nobody gets half a value. It is the ticket
//! lock of [`super::hash`], and what that says about waiting holds here too: a CPU waits at most
//! for one copy of each CPU before it.

use super::MapError;
use spin::mutex::TicketMutex;

/// Which value is taken out first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Discipline {
    /// First in, first out.
    Queue,
    /// Last in, first out.
    Stack,
}

/// What a push does where there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PushFlag {
    /// It fails. `BPF_ANY`.
    Any,
    /// The oldest value makes room. `BPF_EXIST`.
    Replace,
}

impl PushFlag {
    /// The flag that Linux gives that number.
    pub(crate) const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Any),
            2 => Some(Self::Replace),
            _ => None,
        }
    }
}

/// What is in the map: `length` values from `first` on, round the end of the table.
#[derive(Clone, Copy, Debug)]
struct Filled {
    first: usize,
    length: usize,
}

/// The order of a queue or a stack of `room` values.
#[derive(Debug)]
pub(super) struct Order {
    discipline: Discipline,
    room: usize,
    filled: TicketMutex<Filled>,
}

impl Order {
    pub(super) fn new(discipline: Discipline, room: usize) -> Self {
        Self {
            discipline,
            room,
            filled: TicketMutex::new(Filled {
                first: 0,
                length: 0,
            }),
        }
    }

    /// Adds a value, which `write` puts at the index that it gets.
    pub(super) fn push(&self, flag: PushFlag, write: impl FnOnce(usize)) -> Result<(), MapError> {
        let mut filled = self.filled.lock();
        if filled.length == self.room {
            if flag == PushFlag::Any {
                return Err(MapError::Full);
            }
            filled.first = self.after(filled.first, 1);
            filled.length -= 1;
        }
        write(self.after(filled.first, filled.length));
        filled.length += 1;
        Ok(())
    }

    /// Takes the next value out, which `read` copies from its index.
    pub(super) fn pop(&self, read: impl FnOnce(usize)) -> Result<(), MapError> {
        let mut filled = self.filled.lock();
        read(self.next(*filled)?);
        if self.discipline == Discipline::Queue {
            filled.first = self.after(filled.first, 1);
        }
        filled.length -= 1;
        Ok(())
    }

    /// Copies the next value and leaves it there.
    pub(super) fn peek(&self, read: impl FnOnce(usize)) -> Result<(), MapError> {
        let filled = self.filled.lock();
        read(self.next(*filled)?);
        Ok(())
    }

    /// Hands the index of the value that would be taken out as number `position`, from 0, to
    /// `read`. `false` where there are not so many.
    pub(super) fn look(&self, position: usize, read: impl FnOnce(usize)) -> bool {
        let filled = self.filled.lock();
        if position >= filled.length {
            return false;
        }
        let from_oldest = match self.discipline {
            Discipline::Queue => position,
            Discipline::Stack => filled.length - 1 - position,
        };
        read(self.after(filled.first, from_oldest));
        true
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.filled.lock().length
    }

    fn next(&self, filled: Filled) -> Result<usize, MapError> {
        let newest = filled.length.checked_sub(1).ok_or(MapError::NotFound)?;
        Ok(match self.discipline {
            Discipline::Queue => filled.first,
            Discipline::Stack => self.after(filled.first, newest),
        })
    }

    /// The index that is `distance`, at most the room, behind `index`.
    fn after(&self, index: usize, distance: usize) -> usize {
        (index + distance) % self.room
    }
}
