//! Little-endian numbers and names at their places in a sector: the only code that turns bytes into words.

use crate::types::Name;

/// A value of fixed width on disk.
pub(super) trait Wire: Sized {
    /// Its width.
    const BYTES: usize;
    /// Reads it from a slice of exactly that width.
    fn get(bytes: &[u8]) -> Self;
    /// Writes it to a slice of exactly that width.
    fn put(&self, bytes: &mut [u8]);
}

macro_rules! wire_numbers {
    ($($number:ty),*) => {$(
        impl Wire for $number {
            const BYTES: usize = size_of::<$number>();
            fn get(bytes: &[u8]) -> $number {
                let mut word = [0; size_of::<$number>()];
                word.copy_from_slice(bytes);
                <$number>::from_le_bytes(word)
            }
            fn put(&self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

wire_numbers!(u8, u16, u32, u64);

impl Wire for Name {
    const BYTES: usize = Name::FIELD;
    fn get(bytes: &[u8]) -> Name {
        let mut field = [0; Name::FIELD];
        field.copy_from_slice(bytes);
        Name::from_field(field)
    }
    fn put(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(self.field());
    }
}

/// Reads the value that starts at `offset`.
pub(super) fn get<W: Wire>(sector: &[u8], offset: usize) -> W {
    W::get(&sector[offset..offset + W::BYTES])
}

/// Writes the value that starts at `offset`.
pub(super) fn put<W: Wire>(sector: &mut [u8], offset: usize, value: &W) {
    value.put(&mut sector[offset..offset + W::BYTES]);
}

/// Defines a raw record: the fields of a stretch of a sector, as they stand there and unchecked.
///
/// Each line gives the offset, the name, the type and how a dump shows it. That the offsets follow from the widths
/// without gap or overlap, and that the last field ends where the record does, is checked when this is compiled.
macro_rules! raw_record {
    (
        $(#[$doc:meta])*
        $name:ident $start:literal..$end:literal {
            $($offset:literal $field:ident: $type:ty as $show:ident,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub(crate) struct $name {
            $(pub(crate) $field: $type,)*
        }

        const _: () = {
            const WIDTHS: &[usize] = &[$(<$type as $crate::format::bytes::Wire>::BYTES),*];
            const OFFSETS: &[usize] = &[$($offset),*];
            let mut end = $start;
            let mut i = 0;
            while i < OFFSETS.len() {
                assert!(OFFSETS[i] == end, "a field doesn't start where the one before it ends");
                end += WIDTHS[i];
                i += 1;
            }
            assert!(end == $end, "the last field doesn't end where the record does");
        };

        impl $name {
            /// Reads the fields; the slice must reach to the record's end.
            pub(crate) fn read(sector: &[u8]) -> $name {
                $name { $($field: $crate::format::bytes::get(sector, $offset),)* }
            }

            /// Writes the fields to their places.
            pub(crate) fn write(&self, sector: &mut [u8]) {
                $($crate::format::bytes::put(sector, $offset, &self.$field);)*
            }

            /// The fields by name, in disk order.
            pub(crate) fn fields(&self) -> Vec<$crate::format::Field> {
                use $crate::format::{Field, FieldValue};
                vec![$(Field { name: stringify!($field), value: FieldValue::$show(self.$field.into()) },)*]
            }
        }
    };
}
pub(super) use raw_record;
