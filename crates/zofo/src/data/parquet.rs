//! Apache Parquet, by the record interface of the Arrow project's crate.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, Type};
use serde_json::{Map, Number, Value};

use super::compressed;
use super::error::{DataError, RowError};
use super::format::Compression;
use super::{Row, RowIterator};

/// The rows of a Parquet file.
///
/// Numbers, truth values, texts, and structures, lists and maps of them become JSON. Columns of dates, decimals and
/// bytes that are not text, which no task can use, are left out.
pub(super) fn rows(path: &Path, compression: Compression) -> Result<RowIterator, DataError> {
    match compression {
        Compression::None => read(path, File::open(path).map_err(DataError::read(path))?),
        _ => {
            let content = compressed::whole(path, &mut compressed::open(path, compression)?)?;
            read(path, bytes::Bytes::from(content))
        }
    }
}

fn read(path: &Path, content: impl ChunkReader + 'static) -> Result<RowIterator, DataError> {
    let damaged = |error: ParquetError| unreadable(path, &error);
    let reader = SerializedFileReader::new(content).map_err(damaged)?;
    let projection = usable(reader.metadata().file_metadata().schema_descr()).map_err(damaged)?;
    let rows = RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(damaged)?;
    Ok(Box::new(ParquetRows { path: path.to_owned(), rows, number: 0 }))
}

fn unreadable(path: &Path, error: &ParquetError) -> DataError {
    let reason = error.to_string();
    let reason = reason.strip_prefix("Parquet error: ").unwrap_or(&reason);
    DataError::content(path, "a Parquet file", format!("a damaged one, or none: {reason}"))
}

/// The schema without the columns that the record interface cannot read.
fn usable(schema: &SchemaDescriptor) -> Result<Type, ParquetError> {
    let is_usable = |root: usize| {
        let mut leaves = (0..schema.num_columns()).filter(|&leaf| schema.get_column_root_idx(leaf) == root);
        leaves.all(|leaf| is_readable(&schema.column(leaf)))
    };
    let fields = schema.root_schema().get_fields();
    let fields: Vec<Arc<Type>> =
        fields.iter().enumerate().filter(|(root, _)| is_usable(*root)).map(|(_, field)| Arc::clone(field)).collect();
    Type::group_type_builder(schema.root_schema().name()).with_fields(fields).build()
}

/// What [`Field`] has a variant for and stands for itself: of some others the crate panics, and times in nanoseconds, which
/// are known by their logical type alone, it takes for integers.
fn is_readable(column: &ColumnDescriptor) -> bool {
    use ConvertedType::*;
    if matches!(column.logical_type_ref(), Some(LogicalType::Time { .. } | LogicalType::Timestamp { .. })) {
        return false;
    }
    match column.physical_type() {
        Physical::BOOLEAN | Physical::FLOAT | Physical::DOUBLE | Physical::INT96 => true,
        Physical::INT32 => {
            matches!(column.converted_type(), NONE | INT_8 | INT_16 | INT_32 | UINT_8 | UINT_16 | UINT_32)
        }
        Physical::INT64 => matches!(column.converted_type(), NONE | INT_64 | UINT_64),
        Physical::BYTE_ARRAY => matches!(column.converted_type(), NONE | UTF8 | ENUM | JSON | BSON),
        Physical::FIXED_LEN_BYTE_ARRAY => column.converted_type() == NONE,
    }
}

struct ParquetRows {
    path: PathBuf,
    rows: RowIter<'static>,
    number: usize,
}

impl Iterator for ParquetRows {
    type Item = Result<Row, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        self.number += 1;
        Some(match row {
            Ok(row) => Ok(Row { number: self.number, values: object(row) }),
            Err(error) => {
                let found = format!("damage in row {}: {error}", self.number);
                Err(DataError::content(&self.path, "a Parquet file", found).into())
            }
        })
    }
}

fn object(row: parquet::record::Row) -> Map<String, Value> {
    row.into_columns().into_iter().filter_map(|(name, field)| Some((name, json(field)?))).collect()
}

/// `None` of what no JSON value stands for.
fn json(field: Field) -> Option<Value> {
    Some(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float16(value) => Number::from_f64(value.into())?.into(),
        Field::Float(value) => Number::from_f64(value.into())?.into(),
        Field::Double(value) => Number::from_f64(value)?.into(),
        Field::Str(text) => text.into(),
        // Some programs do not say that bytes are text.
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).ok()?.into(),
        Field::Group(row) => object(row).into(),
        Field::ListInternal(list) => {
            list.elements().iter().map(|item| json(item.clone())).collect::<Option<Value>>()?
        }
        Field::MapInternal(map) => {
            let entry = |(key, value): &(Field, Field)| match key {
                Field::Str(key) => Some((key.clone(), json(value.clone())?)),
                _ => None,
            };
            map.entries().iter().map(entry).collect::<Option<Map<_, _>>>()?.into()
        }
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => return None,
    })
}
