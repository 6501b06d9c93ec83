//! A guest that panics when the payload is `panic`, and spends its stack when it is `overflow`. Tests that read the
//! evidence expect the panic in `src/lib.rs` at the line that says so.

use std::hint::black_box;

use busway_sdk::{Event, Failure};

#[busway_sdk::handler]
fn handle(event: Event) -> Result<(), Failure> {
    let told_to = event.payload == b"panic";
    assert!(!told_to, "told to panic on {}", event.subject); // line 11: the tests count on it
    if event.payload == b"overflow" {
        return Err(Failure::reject("bottom", spend_the_stack(0)));
    }
    Ok(())
}

#[expect(unconditional_recursion, reason = "a stack overflow is what it is for")]
fn spend_the_stack(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    spend_the_stack(depth + 1) + frame.iter().sum::<u64>()
}

#[cfg(test)]
mod tests {
    use busway_sdk::{Event, testing};

    use super::handle;

    #[test]
    #[should_panic(expected = "told to panic on a.b")]
    fn it_panics_when_told_to() {
        testing::run(handle, Event::test("a.b", "panic"));
    }

    #[test]
    fn it_accepts_everything_else() {
        assert_eq!(testing::run(handle, Event::test("a.b", "")).outcome, Ok(()));
    }
}
