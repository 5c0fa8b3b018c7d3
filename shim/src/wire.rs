//! Protocol Buffers' wire format, as much as the shim's messages need: varints, fixed 64-bit numbers, byte strings,
//! messages in messages. Written by hand: the messages are few, and a decoder that copies nothing and allocates nothing
//! keeps the process small.

/// A message that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The result of reading.
pub type Result<T> = std::result::Result<T, Malformed>;

/// One field as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire types 0, 1 and 5: numbers, in 64 bits.
    Number(u64),
    /// Wire type 2: strings, bytes and messages.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// An unsigned number; wider ones are cut as other implementations do.
    pub fn number(self) -> Result<u64> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) => Err(Malformed),
        }
    }

    /// A 32-bit number.
    pub fn small(self) -> Result<u32> {
        Ok((self.number()? & u64::from(u32::MAX)) as u32)
    }

    /// A boolean.
    pub fn flag(self) -> Result<bool> {
        Ok(self.number()? != 0)
    }

    /// Bytes.
    pub fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => Err(Malformed),
        }
    }

    /// Text in UTF-8.
    pub fn text(self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }
}

/// The fields of a message, in the order in which they came.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Reads `message`.
    pub fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Malformed)?;
            self.rest = rest;
            // What does not fit into 64 bits is dropped, as the specification has it.
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>)> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0).ok_or(Malformed)?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Number(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Malformed)?)),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Number(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| Malformed)?).into()),
            // Groups are of an older age.
            _ => return Err(Malformed),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// A message in the making. Fields with the default value are left out, as proto3 has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message(pub Vec<u8>);

impl Message {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// A number.
    #[must_use]
    pub fn number(mut self, field: u32, number: impl Into<u64>) -> Self {
        let number = number.into();
        if number != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(number);
        }
        self
    }

    /// A boolean.
    #[must_use]
    pub fn flag(self, field: u32, flag: bool) -> Self {
        self.number(field, u64::from(flag))
    }

    /// Text.
    #[must_use]
    pub fn text(self, field: u32, text: &str) -> Self {
        if text.is_empty() { self } else { self.bytes(field, text.as_bytes()) }
    }

    /// Bytes, or an encoded message: written also when empty, since that is a message too.
    #[must_use]
    pub fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// A message.
    #[must_use]
    pub fn message(self, field: u32, message: &Message) -> Self {
        self.bytes(field, &message.0)
    }

    /// A list of numbers, zeros too, in the packed form.
    #[must_use]
    pub fn packed(self, field: u32, numbers: impl IntoIterator<Item = u64>) -> Self {
        let mut list = Self::new();
        numbers.into_iter().for_each(|number| list.varint(number));
        if list.0.is_empty() { self } else { self.bytes(field, &list.0) }
    }

    /// A floating point number.
    #[must_use]
    pub fn double(mut self, field: u32, number: f64) -> Self {
        if number != 0.0 {
            self.varint(u64::from(field) << 3 | 1);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let inner = Message::new().text(1, "x");
        let message =
            Message::new().number(1, 300u32).text(2, "testing").message(3, &inner).flag(4, true).number(5, 0u32);
        assert_eq!(message.0[..3], [0x08, 0xac, 0x02]);
        let fields: Vec<_> = Fields::of(&message.0).collect::<Result<_>>().unwrap();
        assert_eq!(
            fields,
            [
                (1, Value::Number(300)),
                (2, Value::Bytes(b"testing")),
                (3, Value::Bytes(&inner.0)),
                (4, Value::Number(1))
            ]
        );
    }

    #[test]
    fn a_list_is_one_field_and_has_its_zeros() {
        assert_eq!(Message::new().packed(4, [300, 0, 1]).0, [0x22, 4, 0xac, 0x02, 0, 1]);
        assert_eq!(Message::new().packed(4, [0]).0, [0x22, 1, 0]);
        assert_eq!(Message::new().packed(4, []), Message::new());
    }

    #[test]
    fn a_message_that_is_cut_or_lies_is_refused() {
        for bytes in [
            &b"\x08"[..],
            b"\x12\x05abc",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x00\x01",
            b"\x0b\x01",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x09\x01\x02",
        ] {
            assert!(Fields::of(bytes).any(|field| field.is_err()), "{bytes:?}");
        }
    }
}
