//! A guest that answers requests. On a subject that ends with `echo` it gives the payload back; with `refuse` it rejects;
//! with `again` it fails once and answers the second time; with `relay` it asks `prices.get` and answers with what it
//! heard, after it has published that to `out.heard`, which a stream stores, and to `heard.it`, which none does.

use std::time::Duration;

use busway_sdk::{Event, Failure, Header, Message, context, publish, reply, request};

#[busway_sdk::handler]
fn handle(event: Event) -> Result<(), Failure> {
    match event.subject.rsplit('.').next() {
        Some("refuse") => Err(Failure::reject("not-today", "as the subject says")),
        Some("again") if context::attempt() == 1 => Err(Failure::retry("not yet")),
        Some("relay") => relay(event.payload),
        _ => answer(event.payload),
    }
}

fn relay(payload: Vec<u8>) -> Result<(), Failure> {
    let heard = request(Message::new("prices.get", payload), Duration::from_secs(2))?.payload;
    publish(Message::new("heard.it", heard.clone()))?;
    publish(Message::new("out.heard", heard.clone()))?;
    answer(heard)
}

fn answer(payload: Vec<u8>) -> Result<(), Failure> {
    if context::can_reply() {
        reply(vec![Header { name: "Answered-By".to_owned(), value: "answers".to_owned() }], payload)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use busway_sdk::{Event, Failure, Message, testing::Harness};

    use super::handle;

    #[test]
    fn it_relays_what_it_heard() {
        let asked = Harness::new().as_request().answer("prices.get", Ok(Message::new("prices.get", "2.50")));
        let run = asked.run(handle, Event::test("ask.relay", "tea"));
        assert_eq!((&*run.requests[0].payload, &*run.reply.unwrap().payload), (&b"tea"[..], &b"2.50"[..]));
        assert_eq!(run.outputs.len(), 2);
    }

    #[test]
    fn it_says_nothing_to_an_event_that_nobody_waits_for() {
        let run = Harness::new().run(handle, Event::test("ask.echo", "x"));
        assert_eq!((run.outcome, run.reply), (Ok(()), None));
    }

    #[test]
    fn it_fails_when_told_to() {
        let asked = Harness::new().as_request();
        let run = |subject| asked.run(handle, Event::test(subject, "x")).outcome;
        assert_eq!(run("ask.refuse"), Err(Failure::reject("not-today", "as the subject says")));
        assert_eq!(run("ask.again"), Err(Failure::retry("not yet")));
        assert_eq!(asked.clone().attempt(2).run(handle, Event::test("ask.again", "x")).outcome, Ok(()));
    }
}
