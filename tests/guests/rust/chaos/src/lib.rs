//! A guest that ends as the first word of its event says, always the same way: `one` and `two` publish the event so many
//! times, `later` fails twice before it does, `shaky` traps once before, `never` fails always, `reject` and `trap` do what
//! they say. With `core` in its configuration it also says so there, without a guarantee.

use busway_sdk::{Event, Failure, config, context, publish};

#[busway_sdk::handler]
fn handle(event: Event) -> Result<(), Failure> {
    let text = event.text()?.to_owned();
    let word = text.split(' ').next().unwrap_or_default();
    let outputs = match (word, context::attempt()) {
        ("one", _) => 1,
        ("two", _) => 2,
        ("later", attempt) if attempt > 2 => 1,
        ("later" | "never", _) => return Err(Failure::retry("not now")),
        ("shaky", attempt) => {
            assert!(attempt > 1, "it traps once");
            1
        }
        ("reject", _) => return Err(Failure::reject("told", "the event says so")),
        _ => unreachable!("the event says so: {word}"),
    };
    let to = config::required("to")?;
    for output in 0..outputs {
        publish(event.clone().forward(format!("{to}.{output}")))?;
    }
    if let Some(to) = config::get("core") {
        publish(event.forward(to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use busway_sdk::{Event, testing::Harness};

    use super::handle;

    fn outputs(word: &str, attempt: u32) -> Option<usize> {
        let run = Harness::new()
            .config("to", "out")
            .attempt(attempt)
            .run(handle, Event::test("in", format!("{word} 7")));
        run.outcome.is_ok().then_some(run.outputs.len())
    }

    #[test]
    fn it_ends_as_its_event_says() {
        assert_eq!([outputs("one", 1), outputs("two", 1), outputs("reject", 1)], [Some(1), Some(2), None]);
        assert_eq!([1, 2, 3].map(|attempt| outputs("later", attempt)), [None, None, Some(1)]);
        assert_eq!([1, 2, 3].map(|attempt| outputs("never", attempt)), [None; 3]);
        assert_eq!(outputs("shaky", 2), Some(1));
    }

    #[test]
    #[should_panic(expected = "it traps once")]
    fn it_traps_once() {
        outputs("shaky", 1);
    }
}
