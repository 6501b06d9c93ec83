//! The scan against serde_json, and against payloads that are made to hurt.

use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn at(pointer: &str, payload: impl AsRef<[u8]>) -> Result<String, PointerError> {
    pointer.parse::<JsonPointer>().unwrap().scalar(payload.as_ref()).map(Cow::into_owned)
}

#[test]
fn a_pointer_leads_to_a_scalar_as_in_the_rfc() {
    // The document of RFC 6901, section 5.
    let document = br##"{ "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5,
        "k\"l": 6, " ": 7, "m~n": 8, "u": "\u00fc\ud83d\ude00\n", "t": true, "neg": -1.50e+3 }"##;
    let table = [
        ("/foo/0", "bar"),
        ("/foo/1", "baz"),
        ("/", "0"),
        ("/a~1b", "1"),
        ("/c%d", "2"),
        ("/e^f", "3"),
        ("/g|h", "4"),
        ("/i\\j", "5"),
        ("/k\"l", "6"),
        ("/ ", "7"),
        ("/m~0n", "8"),
        ("/u", "ü😀\n"),
        ("/t", "true"),
        ("/neg", "-1.50e+3"),
    ];
    for (pointer, expected) in table {
        assert_eq!(at(pointer, document).as_deref(), Ok(expected), "{pointer}");
    }
    for pointer in ["/foo/2", "/foo/00", "/foo/-", "/foo/+1", "/foo/", "/bar", "/t/x", "/neg/0"] {
        assert_eq!(at(pointer, document), Err(PointerError::NotFound), "{pointer}");
    }
    assert_eq!(at("", document), Err(PointerError::NotScalar("an object")));
    assert_eq!(at("/foo", document), Err(PointerError::NotScalar("an array")));
    assert_eq!(at("/a", r#"{"a":null}"#), Err(PointerError::NotScalar("null")));
}

#[test]
fn a_whole_payload_can_be_the_key() {
    assert_eq!(at("", " 17 ").as_deref(), Ok("17"));
    assert_eq!(at("", "\"x\"").as_deref(), Ok("x"));
}

#[test]
fn a_malformed_pointer_is_refused() {
    let table = [
        ("a", MalformedPointer::NoSlash),
        ("#/a", MalformedPointer::NoSlash),
        ("/a~", MalformedPointer::Tilde),
        ("/a~2", MalformedPointer::Tilde),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<JsonPointer>(), Err(expected), "{text}");
    }
    assert!("/a".repeat(64).parse::<JsonPointer>().is_ok());
    assert_eq!("/a".repeat(65).parse::<JsonPointer>(), Err(MalformedPointer::TooDeep));
    assert_eq!(format!("/{}", "a".repeat(1024)).parse::<JsonPointer>(), Err(MalformedPointer::TooLong));
}

#[test]
fn what_is_not_json_before_the_place_is_refused() {
    let broken = [
        "",
        " ",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\" 1}",
        "{a:1}",
        "{\"b\":01,\"a\":1}",
        "{\"b\":+1,\"a\":1}",
        "{\"b\":.5,\"a\":1}",
        "{\"b\":1.,\"a\":1}",
        "{\"b\":1e,\"a\":1}",
        "{\"b\":NaN,\"a\":1}",
        "{\"a\":tru}",
        "{\"b\":1;\"a\":1}",
        "{\"b\":[1}],\"a\":1}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\ud800\\u0041\"}",
        "{\"a\":\"",
        "{\"a\":1x}",
        "{\"b\":{\"c\" 1},\"a\":1}",
        "{,\"a\":1}",
    ];
    for payload in broken {
        assert!(matches!(at("/a", payload), Err(PointerError::NotJson(_))), "{payload}");
    }
    assert_eq!(at("/a", b"{\"a\":\"\xff\"}"), Err(PointerError::NotJson(6)));
}

#[test]
fn what_stands_behind_the_place_is_not_looked_at_and_the_first_of_two_names_counts() {
    assert_eq!(at("/a", r#"{"a":1,"a":2,]"#).as_deref(), Ok("1"));
}

#[test]
fn a_depth_bomb_costs_nothing_and_is_refused() {
    let nested = |depth: usize| format!("{{\"b\":{}1{},\"a\":1}}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(at("/a", nested(DEPTH_MAX - 1)).as_deref(), Ok("1"));
    assert_eq!(at("/a", nested(DEPTH_MAX)), Err(PointerError::TooDeep));
    assert_eq!(at("/a", "[".repeat(10_000_000)), Err(PointerError::NotFound));
    assert_eq!(at("/0/a", "[".repeat(10_000_000)), Err(PointerError::NotFound));
    assert_eq!(at("/1", "[".repeat(10_000_000)), Err(PointerError::TooDeep));
    assert_eq!(at("/a", format!("{{\"b\":{}", "{\"b\":".repeat(1_000_000))), Err(PointerError::TooDeep));
}

#[test]
fn a_scan_ends_at_its_bound_and_never_takes_a_part_for_the_whole() {
    let filler = |bytes: usize| format!("{{\"b\":\"{}\",\"a\":12345}}", "x".repeat(bytes));
    let overhead = filler(0).len();
    assert_eq!(at("/a", filler(SCAN_BYTES_MAX - overhead)).as_deref(), Ok("12345"));
    for bytes in SCAN_BYTES_MAX - overhead + 1..SCAN_BYTES_MAX {
        let found = at("/a", filler(bytes));
        assert!(matches!(found.as_deref(), Ok("12345") | Err(PointerError::TooFar)), "{bytes}: {found:?}");
    }
    assert_eq!(at("/a", filler(SCAN_BYTES_MAX)), Err(PointerError::TooFar));
    assert_eq!(at("", "1".repeat(SCAN_BYTES_MAX + 1)), Err(PointerError::TooFar));
    assert_eq!(at("", format!("\"{}\"", "x".repeat(SCAN_BYTES_MAX))), Err(PointerError::TooFar));
    assert_eq!(at("/a", " ".repeat(SCAN_BYTES_MAX + 1)), Err(PointerError::TooFar));
}

fn document() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    scalar.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((".{0,6}", inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Every place in a document, as a pointer.
fn places(value: &Value, here: &str, places: &mut Vec<String>) {
    places.push(here.to_owned());
    match value {
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                self::places(element, &format!("{here}/{index}"), places);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                self::places(member, &format!("{here}/{name}"), places);
            }
        }
        _ => {}
    }
}

fn expected(value: Option<&Value>) -> Result<String, PointerError> {
    match value {
        None => Err(PointerError::NotFound),
        Some(Value::Null) => Err(PointerError::NotScalar("null")),
        Some(Value::Array(_)) => Err(PointerError::NotScalar("an array")),
        Some(Value::Object(_)) => Err(PointerError::NotScalar("an object")),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(scalar) => Ok(scalar.to_string()),
    }
}

proptest! {
    #[test]
    fn every_place_of_a_document_holds_what_a_full_parse_finds_there(document in document(), missing in "[a-z0-9]{1,3}") {
        let mut places = Vec::new();
        self::places(&document, "", &mut places);
        places.push(format!("/{missing}"));
        for text in [document.to_string(), serde_json::to_string_pretty(&document).unwrap()] {
            for place in &places {
                prop_assert_eq!(at(place, &text), expected(document.pointer(place)), "{} in {}", place, text);
            }
        }
    }

    #[test]
    fn a_document_that_was_cut_off_holds_what_the_whole_one_holds_or_is_not_json(
        document in document(), cut in any::<prop::sample::Index>(),
    ) {
        // What is left of a number is a number.
        prop_assume!(!document.is_number());
        let text = document.to_string();
        let left = &text.as_bytes()[..cut.index(text.len())];
        let mut places = Vec::new();
        self::places(&document, "", &mut places);
        for place in &places {
            let found = at(place, left);
            let not_json = matches!(found, Err(PointerError::NotJson(_)));
            prop_assert!(not_json || found == expected(document.pointer(place)), "{}: {:?}", place, found);
        }
    }

    #[test]
    fn no_bytes_make_the_scan_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), pointer in "(/[a-z0-2]{0,2}){0,4}") {
        drop(at(&pointer, bytes));
    }

    #[test]
    fn no_json_like_text_makes_the_scan_panic(text in r#"[\[\]{}",:\\u01ae.tfn -]{0,80}"#, pointer in "(/[a-z0-2]{0,2}){0,4}") {
        drop(at(&pointer, text));
    }
}
