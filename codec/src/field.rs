//! Hand-laid encoding: little-endian fields in declaration order, lengths before contents, every length bounded.
//!
//! Records that are too irregular for a fixed zerocopy header (messages, deltas, commands) are written with
//! [`record!`](crate::record!) and [`choice!`](crate::choice!), which do nothing but call [`Field`] on each member in
//! order. There is no self-description, no reflection and no serde: WIRE.md holds the tables and golden vectors pin them.

use crate::limits;
use bytes::{Buf, Bytes};

/// Why bytes are not a record. Always the sender's (or the disk's) fault, never a reason to panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end before the record does.
    Truncated {
        /// Bytes that the next field needs.
        need: usize,
        /// Bytes that are left.
        have: usize,
    },
    /// The record ends before the bytes do.
    Trailing {
        /// Bytes left over.
        extra: usize,
    },
    /// A length is beyond its documented limit.
    TooLong {
        /// The field.
        what: &'static str,
        /// The largest value allowed.
        limit: usize,
        /// What the bytes say.
        got: usize,
    },
    /// A number that must name something names nothing this version knows.
    Unknown {
        /// The field.
        what: &'static str,
        /// What the bytes say.
        value: u64,
    },
    /// A value breaks a rule of its field (a name with a slash in it, text that is not UTF-8, an offset past its end).
    Invalid {
        /// The field.
        what: &'static str,
    },
    /// A magic number or a checksum does not match.
    Corrupt {
        /// What was checked.
        what: &'static str,
    },
    /// Written by another version than the ones this build reads.
    Version {
        /// The version the bytes carry.
        got: u16,
        /// The oldest version this build reads.
        oldest: u16,
        /// The newest version this build reads.
        newest: u16,
    },
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated { need, have } => write!(f, "truncated: {need} bytes needed, {have} left"),
            Self::Trailing { extra } => write!(f, "{extra} bytes follow the end of the record"),
            Self::TooLong { what, limit, got } => write!(f, "{what} is {got}, the limit is {limit}"),
            Self::Unknown { what, value } => write!(f, "unknown {what} {value}"),
            Self::Invalid { what } => write!(f, "invalid {what}"),
            Self::Corrupt { what } => write!(f, "{what} does not match"),
            Self::Version { got, oldest, newest } => {
                write!(f, "written by format version {got}, this build reads {oldest} to {newest}")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// Bytes being taken apart. Byte fields are slices of the input, never copies.
#[derive(Debug, Clone)]
pub struct Reader {
    left: Bytes,
}

impl Reader {
    /// Starts at the beginning of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self { left: bytes }
    }

    /// Takes the next `length` bytes without copying them.
    pub fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if self.left.len() < length {
            return Err(DecodeError::Truncated { need: length, have: self.left.len() });
        }
        Ok(self.left.split_to(length))
    }

    /// Takes a fixed number of bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        if self.left.len() < N {
            return Err(DecodeError::Truncated { need: N, have: self.left.len() });
        }
        let mut out = [0; N];
        self.left.copy_to_slice(&mut out);
        Ok(out)
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.left.len()
    }

    /// Succeeds when nothing is left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.left.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { extra }),
        }
    }

    /// Takes a u32 length and checks it against its limit.
    pub fn length(&mut self, what: &'static str, limit: usize) -> Result<usize, DecodeError> {
        let got = u32::decode(self)? as usize;
        if got > limit {
            return Err(DecodeError::TooLong { what, limit, got });
        }
        Ok(got)
    }
}

/// A value with one byte layout.
pub trait Field: Sized {
    /// Appends the value's bytes.
    fn encode(&self, out: &mut Vec<u8>);
    /// Takes the value's bytes from the front of `input`.
    fn decode(input: &mut Reader) -> Result<Self, DecodeError>;

    /// The value's bytes alone.
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::new();
        self.encode(&mut out);
        Bytes::from(out)
    }

    /// Reads a value that must fill `bytes` exactly.
    fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let value = Self::decode(&mut input)?;
        input.finish()?;
        Ok(value)
    }
}

macro_rules! integer_field {
    ($($integer:ty),*) => {$(
        impl Field for $integer {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
                Ok(Self::from_le_bytes(input.array()?))
            }
        }
    )*};
}
integer_field!(u8, u16, u32, u64);

impl Field for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Unknown { what: "boolean", value: u64::from(other) }),
        }
    }
}

impl<const N: usize> Field for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        input.array()
    }
}

impl Field for Bytes {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.len() <= limits::MAX_BYTES_FIELD, "a byte field is bounded by its maker");
        (self.len() as u32).encode(out);
        out.extend_from_slice(self);
    }
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let length = input.length("byte field", limits::MAX_BYTES_FIELD)?;
        input.take(length)
    }
}

impl Field for String {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.len() <= limits::MAX_TEXT, "text is bounded by its maker");
        (self.len() as u32).encode(out);
        out.extend_from_slice(self.as_bytes());
    }
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let length = input.length("text", limits::MAX_TEXT)?;
        let bytes = input.take(length)?;
        std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| DecodeError::Invalid { what: "text" })
    }
}

impl<T: Field> Field for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(if bool::decode(input)? { Some(T::decode(input)?) } else { None })
    }
}

impl<T: Field> Field for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.len() <= limits::MAX_LIST, "a list is bounded by its maker");
        (self.len() as u32).encode(out);
        for value in self {
            value.encode(out);
        }
    }
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let length = input.length("list", limits::MAX_LIST)?;
        // A hostile length must not reserve more memory than the bytes at hand take.
        let mut values = Vec::with_capacity(length.min(input.remaining() / size_of::<T>().max(1)));
        for _ in 0..length {
            values.push(T::decode(input)?);
        }
        Ok(values)
    }
}

impl<T: Field, E: Field> Field for Result<T, E> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_ok().encode(out);
        match self {
            Ok(value) => value.encode(out),
            Err(error) => error.encode(out),
        }
    }
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(if bool::decode(input)? { Ok(T::decode(input)?) } else { Err(E::decode(input)?) })
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok((A::decode(input)?, B::decode(input)?))
    }
}

/// Declares a struct whose layout is its fields in order.
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident : $kind:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $kind),* }

        impl $crate::Field for $name {
            #[allow(unused_variables)]
            fn encode(&self, out: &mut Vec<u8>) {
                $($crate::Field::encode(&self.$field, out);)*
            }
            #[allow(unused_variables)]
            fn decode(input: &mut $crate::Reader) -> Result<Self, $crate::DecodeError> {
                Ok(Self { $($field: $crate::Field::decode(input)?),* })
            }
        }
    };
}

/// Declares an enum whose layout is a u16 number followed by the variant's one field, where it has one.
#[macro_export]
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident $(($kind:ty))? = $number:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant $(($kind))?),* }

        impl $crate::Field for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $($crate::choice!(@pattern $name $variant value $($kind)?) => {
                        $crate::Field::encode(&($number as u16), out);
                        $crate::choice!(@encode value out $($kind)?);
                    })*
                }
            }
            fn decode(input: &mut $crate::Reader) -> Result<Self, $crate::DecodeError> {
                match <u16 as $crate::Field>::decode(input)? {
                    $($number => Ok($crate::choice!(@decode $name $variant input $($kind)?)),)*
                    other => Err($crate::DecodeError::Unknown { what: stringify!($name), value: u64::from(other) }),
                }
            }
        }
    };
    (@pattern $name:ident $variant:ident $value:ident $kind:ty) => { $name::$variant($value) };
    (@pattern $name:ident $variant:ident $value:ident) => { $name::$variant };
    (@encode $value:ident $out:ident $kind:ty) => { $crate::Field::encode($value, $out) };
    (@encode $value:ident $out:ident) => {};
    (@decode $name:ident $variant:ident $input:ident $kind:ty) => { $name::$variant(<$kind as $crate::Field>::decode($input)?) };
    (@decode $name:ident $variant:ident $input:ident) => { $name::$variant };
}
