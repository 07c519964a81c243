//! Between JSON and the protocol's bytes, as grpc-gateway writes them: 64-bit numbers are strings, bytes are base64,
//! enums are names, and what is zero or empty is left out.

use super::schema::{Field, Kind, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use serde_json::{Map, Value};

/// Messages in messages may go so deep. etcd's own are at most as deep as its transactions.
const DEEPEST: usize = 64;

/// The bytes of a message in JSON. An error says what is wrong with it.
pub(super) fn to_bytes(message: &Message, value: &Value) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    write(message, value, DEEPEST, &mut bytes)?;
    Ok(bytes)
}

fn write(message: &Message, value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if depth == 0 {
        return Err("nested too deeply".to_owned());
    }
    let Value::Object(given) = value else { return Err(format!("{} where an object belongs", kind(value))) };
    for field in message.0 {
        let Some(value) = given.get(field.name).or_else(|| given.get(&camel(field.name))) else { continue };
        match value {
            // As if it were not there.
            Value::Null => {}
            Value::Array(values) if field.repeated => {
                values.iter().try_for_each(|value| write_field(field, value, depth, out))?;
            }
            _ if field.repeated => {
                return Err(format!("{}: {} where an array belongs", field.name, kind(value)));
            }
            value => write_field(field, value, depth, out)?,
        }
    }
    Ok(())
}

fn write_field(field: &Field, value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), String> {
    match (&field.kind, value) {
        (Kind::Bytes, Value::String(text)) => {
            let bytes = STANDARD.decode(text);
            let bytes = bytes.map_err(|error| format!("{}: illegal base64 data: {error}", field.name))?;
            put_bytes(field.number, &bytes, out);
        }
        (Kind::Text, Value::String(text)) => put_bytes(field.number, text.as_bytes(), out),
        (Kind::Of(message), value) => {
            let mut inner = Vec::new();
            write(message, value, depth - 1, &mut inner)
                .map_err(|error| format!("{}: {error}", field.name))?;
            put_bytes(field.number, &inner, out);
        }
        (kind, value) => {
            let number = number(kind, value);
            let number = number
                .ok_or_else(|| format!("{}: {} does not belong there", field.name, self::kind(value)))?;
            encode_key(field.number, WireType::Varint, out);
            encode_varint(number, out);
        }
    }
    Ok(())
}

/// The number of a field that has one.
fn number(kind: &Kind, value: &Value) -> Option<u64> {
    match (kind, value) {
        (Kind::Flag, Value::Bool(flag)) => Some(u64::from(*flag)),
        (Kind::Name(names), Value::String(text)) => {
            names.iter().position(|name| name == text).map(|number| number as u64)
        }
        (Kind::Int | Kind::Name(_), Value::Number(number)) => number.as_i64().map(|number| number as u64),
        (Kind::Int, Value::String(text)) => text.parse::<i64>().ok().map(|number| number as u64),
        (Kind::Uint | Kind::Small, Value::Number(number)) => number.as_u64(),
        (Kind::Uint | Kind::Small, Value::String(text)) => text.parse().ok(),
        _ => None,
    }
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The other name that JSON may give a field: `rangeEnd` for `range_end`.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut joined = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        joined.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        joined.push_str(letters.as_str());
    }
    joined
}

/// A message of the protocol as JSON. An error means that the bytes are none.
pub(super) fn to_json(message: &Message, mut bytes: &[u8]) -> Result<Value, prost::DecodeError> {
    let mut object = Map::new();
    while !bytes.is_empty() {
        let (number, wire) = decode_key(&mut bytes)?;
        let field = message.0.iter().find(|field| field.number == number);
        let value = match wire {
            WireType::Varint => {
                let number = decode_varint(&mut bytes)?;
                field.map(|field| number_in_json(&field.kind, number))
            }
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut bytes)?).unwrap_or(usize::MAX);
                let inner = bytes.get(..length).ok_or_else(cut_off)?;
                bytes.advance(length);
                field.map(|field| bytes_in_json(&field.kind, inner)).transpose()?
            }
            // No message of etcd has any.
            other => {
                prost::encoding::skip_field(other, number, &mut bytes, Default::default()).map(|()| None)?
            }
        };
        let (Some(field), Some(value)) = (field, value) else { continue };
        if !field.repeated {
            object.insert(field.name.to_owned(), value);
        } else if let Value::Array(values) =
            object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()))
        {
            values.push(value);
        }
    }
    Ok(Value::Object(object))
}

fn cut_off() -> prost::DecodeError {
    // There is no other way to make one.
    decode_varint(&mut [].as_slice()).err().unwrap_or_else(|| unreachable!("nothing is no number"))
}

fn number_in_json(kind: &Kind, number: u64) -> Value {
    match kind {
        Kind::Flag => Value::Bool(number != 0),
        Kind::Int => Value::String((number as i64).to_string()),
        Kind::Name(names) => match usize::try_from(number).ok().and_then(|number| names.get(number)) {
            Some(name) => Value::String((*name).to_owned()),
            None => Value::from(number),
        },
        Kind::Small => Value::from(number),
        Kind::Uint | Kind::Bytes | Kind::Text | Kind::Of(_) => Value::String(number.to_string()),
    }
}

fn bytes_in_json(kind: &Kind, bytes: &[u8]) -> Result<Value, prost::DecodeError> {
    Ok(match kind {
        Kind::Of(message) => to_json(message, bytes)?,
        Kind::Text => Value::String(String::from_utf8_lossy(bytes).into_owned()),
        _ => Value::String(STANDARD.encode(bytes)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::schema::{RANGE_RESPONSE, TXN_REQUEST, WATCH_REQUEST};
    use super::*;
    use etcd_client::proto::{
        PbKeyValue, PbRangeResponse, PbResponseHeader, PbTargetUnion, PbTxnOpRequest, PbTxnRequest,
        PbWatchRequest, PbWatchRequestUnion,
    };
    use prost::Message as _;
    use serde_json::json;

    #[test]
    fn a_transaction_in_json_is_the_one_that_it_says() {
        let text = json!({
            "compare": [{"result": "GREATER", "target": "CREATE", "key": "YQ==", "createRevision": "0"}],
            "success": [{"requestPut": {"key": "YQ==", "value": "Yg==", "lease": 7}},
                        {"request_txn": {"failure": [{"request_range": {"key": "YQ==", "sort_order": "DESCEND"}}]}}],
            "unknown": 7,
        });
        let bytes = to_bytes(&TXN_REQUEST, &text).expect("sound");
        let txn = PbTxnRequest::decode(bytes.as_slice()).expect("a transaction");
        assert_eq!((txn.compare[0].result, txn.compare[0].target), (1, 1));
        assert_eq!(txn.compare[0].target_union, Some(PbTargetUnion::CreateRevision(0)), "it is there, and 0");
        let Some(PbTxnOpRequest::RequestPut(put)) = &txn.success[0].request else { panic!("{txn:?}") };
        assert_eq!((put.key.as_slice(), put.value.as_slice(), put.lease), (&b"a"[..], &b"b"[..], 7));
        let Some(PbTxnOpRequest::RequestTxn(inner)) = &txn.success[1].request else { panic!("{txn:?}") };
        assert!(
            matches!(&inner.failure[0].request, Some(PbTxnOpRequest::RequestRange(r)) if r.sort_order == 2)
        );
    }

    #[test]
    fn an_empty_message_in_another_is_there() {
        let bytes = to_bytes(&WATCH_REQUEST, &json!({"progress_request": {}})).expect("sound");
        let request = PbWatchRequest::decode(bytes.as_slice()).expect("a request");
        assert!(matches!(request.request_union, Some(PbWatchRequestUnion::ProgressRequest(_))));
    }

    #[test]
    fn what_is_not_as_the_protocol_says_is_refused_by_name() {
        for (text, expected) in [
            (json!([]), "an array where an object belongs"),
            (json!({"success": 7}), "success: a number where an array belongs"),
            (
                json!({"success": [{"request_put": {"key": 7}}]}),
                "success: request_put: key: a number does not belong there",
            ),
            (json!({"compare": [{"version": "many"}]}), "compare: version: a string does not belong there"),
            (json!({"compare": [{"target": "SIZE"}]}), "compare: target: a string does not belong there"),
        ] {
            assert_eq!(to_bytes(&TXN_REQUEST, &text), Err(expected.to_owned()));
        }
        let deep = (0..100).fold(json!({}), |inner, _| json!({"success": [{"request_txn": inner}]}));
        assert!(to_bytes(&TXN_REQUEST, &deep).is_err_and(|error| error.ends_with("nested too deeply")));
    }

    #[test]
    fn an_answer_in_json_leaves_out_what_is_zero() {
        let response = PbRangeResponse {
            header: Some(PbResponseHeader { cluster_id: u64::MAX, revision: 3, ..Default::default() }),
            kvs: vec![PbKeyValue { key: b"a".to_vec(), value: vec![0xff], lease: -1, ..Default::default() }],
            more: true,
            count: 0,
        };
        let expected = json!({
            "header": {"cluster_id": u64::MAX.to_string(), "revision": "3"},
            "kvs": [{"key": "YQ==", "value": "/w==", "lease": "-1"}],
            "more": true,
        });
        let bytes = response.encode_to_vec();
        assert_eq!(to_json(&RANGE_RESPONSE, &bytes).expect("a message"), expected);
        assert!(to_json(&RANGE_RESPONSE, &bytes[..bytes.len() - 4]).is_err(), "it is cut off");
    }
}
