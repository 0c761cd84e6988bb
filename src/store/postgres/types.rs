//! Values of ours as PostgreSQL's binary format has them.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

use crate::sale::Timestamp;

/// Microseconds from 1970-01-01 to 2000-01-01, from which PostgreSQL counts (datatype/timestamp.h, POSTGRES_EPOCH_JDATE).
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Days between the same.
pub(super) const EPOCH_DAYS: i32 = 10_957;

/// `timestamptz` and its array (pg_type.dat).
const TIMESTAMPTZ: u32 = 1184;
const TIMESTAMPTZ_ARRAY: u32 = 1185;

/// An instant as a `timestamptz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At(pub(super) Timestamp);

impl At {
    /// What goes over the wire.
    pub(super) fn wire(self) -> i64 {
        self.0.0.saturating_sub(EPOCH_MICROS)
    }
}

impl Type<Postgres> for At {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(TIMESTAMPTZ))
    }
}

impl PgHasArrayType for At {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(TIMESTAMPTZ_ARRAY))
    }
}

impl Encode<'_, Postgres> for At {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.wire().to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for At {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        if value.format() != PgValueFormat::Binary {
            return Err("a timestamp came as text".into());
        }
        let micros = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        let since_1970 = micros.checked_add(EPOCH_MICROS).ok_or("an infinite timestamp")?;
        Ok(Self(Timestamp(since_1970)))
    }
}
