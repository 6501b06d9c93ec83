//! Plain subjects against a real nats-server: at most once, and everything that does not arrive is counted.

use crate::support::*;
use anyhow::{Context as _, Result};
use busway_core::{
    AttemptRecord, Binding, FailedRun, FailureClass, Message, Publish as _, Request as _,
    binding::{CoreBuffer, Overflow, Subscription},
    port::{Outgoing, RequestError},
};
use busway_testkit::nats::NatsServer;
use busway_transport::{Auth, Nats, NatsConfig, OpenBinding, OpenError, Secret, SourceStatus, nats::Role};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

const BUFFER: CoreBuffer =
    CoreBuffer { messages_max: 1_024, bytes_max: 16 << 20, overflow: Overflow::DropOldest };

fn plain(plugin: &str, subjects: &[&str], group: Option<&str>, buffer: CoreBuffer) -> Binding {
    let group = group.map(str::to_owned);
    let subscription = Subscription::Core { filters: filters(subjects), group, buffer };
    Binding { subscription, ..binding(plugin, &[]) }
}

/// Opens it and waits until the broker has it.
async fn opened(bed: &Bed, binding: &Binding) -> Result<OpenBinding> {
    let mut open = bed.open(binding).await?;
    tokio::spawn(open.beside.take().context("nothing has to run beside it")?);
    status(&mut open.status, |status| matches!(status, SourceStatus::Confirmed)).await?;
    Ok(open)
}

async fn on(plugin: &str, subjects: &[&str], buffer: CoreBuffer) -> Result<(Bed, OpenBinding)> {
    let bed = Bed::new().await?;
    let open = opened(&bed, &plain(plugin, subjects, None, buffer)).await?;
    Ok((bed, open))
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

async fn until(mut reached: impl FnMut() -> bool) -> Result<()> {
    within(async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn an_event_comes_whole_with_an_id_of_its_own_and_no_position() -> Result<()> {
    let (bed, mut open) = on("p", &["talk.>"], BUFFER).await?;
    let mut headers = async_nats::HeaderMap::new();
    headers.append("x-a", "1");
    bed.client.publish_with_headers("talk.a", headers, "one".into()).await?;
    bed.client.publish("talk.b.c", "two".into()).await?;
    let first = next(&mut open.source, 8).await?;
    assert_eq!((first.content.subject(), &*payload(&first)), ("talk.a", "one"));
    let busway_core::port::Content::Message(message) = &first.content else { panic!("{first:?}") };
    assert_eq!(message.headers.get("x-a"), Some("1"));
    let second = next(&mut open.source, 8).await?;
    assert_eq!((second.content.subject(), &*payload(&second)), ("talk.b.c", "two"));
    assert_ne!(first.receipt.event_id, second.receipt.event_id);
    for receipt in [&first.receipt, &second.receipt] {
        assert_eq!((&receipt.position, receipt.published_at_ms, &receipt.reply_to), (&None, None, &None));
        open.settle.ack(receipt).await?;
        assert!(open.settle.ack(receipt).await.is_err(), "an event is settled once");
    }
    Ok(())
}

#[tokio::test]
async fn hosts_of_one_group_share_the_events_and_without_a_group_each_host_gets_all() -> Result<()> {
    for (group, expected) in [(Some("g"), 200), (None, 400)] {
        let bed = Bed::new().await?;
        let mut hosts = Vec::new();
        for _ in 0..2 {
            // A host of its own each: the same plugin on the same server.
            let nats = Nats::connect(&NatsConfig::new(bed.server.url())).await?;
            let mut open = nats.open(&plain("p", &["in.a"], group, BUFFER), Default::default()).await?;
            tokio::spawn(open.beside.take().context("nothing beside it")?);
            status(&mut open.status, |status| matches!(status, SourceStatus::Confirmed)).await?;
            hosts.push((nats, open));
        }
        for n in 0..200 {
            bed.client.publish("in.a", n.to_string().into()).await?;
        }
        let mut came = BTreeMap::<String, usize>::new();
        let mut each = [0, 0];
        while each.iter().sum::<usize>() < expected {
            let [(_, one), (_, two)] = &mut *hosts else { panic!("two hosts") };
            let (host, delivery) = within(async {
                tokio::select! {
                    delivery = one.source.next(1) => (0, delivery),
                    delivery = two.source.next(1) => (1, delivery),
                }
            })
            .await?;
            *came.entry(payload(&delivery.context("closed")?)).or_default() += 1;
            each[host] += 1;
        }
        assert_eq!(came.len(), 200);
        assert!(came.values().all(|times| *times == expected / 200), "{group:?}: {came:?}");
        assert!(each.iter().all(|times| *times > 20), "{group:?}: {each:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_that_is_too_slow_loses_the_oldest_or_the_newest_and_every_loss_is_counted() -> Result<()> {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let small = CoreBuffer { messages_max: 10, bytes_max: 1 << 20, overflow };
        let (bed, mut open) = on("p", &["in.a"], small).await?;
        for n in 0..100 {
            bed.client.publish("in.a", n.to_string().into()).await?;
        }
        until(|| count(&open.counters.shed) == 90).await?;
        let mut came = Vec::new();
        for _ in 0..10 {
            came.push(payload(&next(&mut open.source, 8).await?));
        }
        let kept = match overflow {
            Overflow::DropOldest => 90..100,
            Overflow::DropNewest => 0..10,
        };
        assert_eq!(came, kept.map(|n| n.to_string()).collect::<Vec<_>>(), "{overflow:?}");
        assert_eq!(bed.nats.health(Role::Core).borrow().slow_consumer_drops, 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_burst_is_counted_to_the_last_message() -> Result<()> {
    let (bed, open) = on("p", &["in.a"], BUFFER).await?;
    for n in 0..30_000 {
        bed.client.publish("in.a", n.to_string().into()).await?;
    }
    bed.client.flush().await?;
    until(|| count(&open.counters.shed) == 30_000 - 1_024).await?;
    // Nothing is left to the client library, which does not tell of every loss.
    assert_eq!(bed.nats.health(Role::Core).borrow().slow_consumer_drops, 0);
    Ok(())
}

#[tokio::test]
async fn an_event_that_is_put_back_comes_again_after_its_wait_with_its_failed_runs() -> Result<()> {
    let (bed, mut open) = on("p", &["in.a"], BUFFER).await?;
    bed.client.publish("in.a", "x".into()).await?;
    let first = next(&mut open.source, 8).await?;
    let mut record = AttemptRecord::default();
    record.push(FailedRun::for_test(FailureClass::Retry));
    open.settle.record_attempts(&first.receipt, &record).await?;
    let since = Instant::now();
    open.settle.put_back(&first.receipt, Duration::from_millis(200)).await?;
    bed.client.publish("in.a", "y".into()).await?;
    assert_eq!(payload(&next(&mut open.source, 8).await?), "y", "another event need not wait");
    let again = next(&mut open.source, 8).await?;
    assert!(since.elapsed() >= Duration::from_millis(200));
    assert_eq!((payload(&again), again.receipt.delivered), ("x".to_owned(), 2));
    assert_eq!(again.receipt.event_id, first.receipt.event_id);
    assert_eq!(open.settle.attempts(&again.receipt).await?, record);
    open.settle.terminate(&again.receipt, "dead-lettered").await?;
    Ok(())
}

#[tokio::test]
async fn no_more_events_wait_for_their_next_attempt_than_the_buffer_holds() -> Result<()> {
    let (bed, mut open) = on("p", &["in.a"], CoreBuffer { messages_max: 5, ..BUFFER }).await?;
    for n in 0..6 {
        bed.client.publish("in.a", n.to_string().into()).await?;
        let delivery = next(&mut open.source, 8).await?;
        open.settle.put_back(&delivery.receipt, Duration::from_millis(50)).await?;
    }
    assert_eq!(count(&open.counters.shed), 1);
    let mut came = BTreeSet::new();
    for _ in 0..5 {
        came.insert(payload(&next(&mut open.source, 8).await?));
    }
    assert_eq!(came, (0..5).map(|n| n.to_string()).collect());
    Ok(())
}

#[tokio::test]
async fn a_malformed_message_costs_a_reconnect_and_events_behind_it_arrive() -> Result<()> {
    // The last one ends the client library's own end of the connection for good.
    for (reconnects, block) in [
        (1, &b"NATS/1.0\r\nno colon\r\n\r\n"[..]),
        (1, b"NATS/1.0\r\nx-a: \xff\r\n\r\n"),
        (1, b"NATS/1.0\r\na: b\rc\r\n\r\n"),
    ] {
        let (bed, mut open) = on("p", &["in.core"], BUFFER).await?;
        let mut pulled = bed.open(&binding("q", &["in.>"])).await?;
        RawPublisher::connect(bed.server.address())?.publish(b"in.core", block, b"bad")?;
        let health = bed.nats.health(Role::Core);
        // What is published while the connection is down is lost, so it is said until it is heard.
        let heard = within(async {
            loop {
                bed.client.publish("in.core", "good".into()).await?;
                tokio::select! {
                    delivery = next(&mut open.source, 8) => return delivery,
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                }
            }
        })
        .await??;
        assert_eq!(payload(&heard), "good");
        assert_eq!(health.borrow().disconnects, reconnects);
        for role in [Role::Control, Role::Egress] {
            assert_eq!(bed.nats.health(role).borrow().disconnects, 0, "{role:?}");
        }
        // Durable events go on meanwhile, the malformed one included.
        assert!(is_malformed(&next(&mut pulled.source, 8).await?));
    }
    Ok(())
}

#[tokio::test]
async fn a_broker_that_crashes_and_returns_is_subscribed_to_again() -> Result<()> {
    let (mut bed, mut open) = on("p", &["talk"], BUFFER).await?;
    bed.server.restart()?;
    let heard = within(async {
        loop {
            bed.client.publish("talk", "good".into()).await?;
            tokio::select! {
                delivery = next(&mut open.source, 8) => return delivery,
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    })
    .await??;
    assert_eq!(payload(&heard), "good");
    Ok(())
}

#[tokio::test]
async fn a_request_can_be_answered_and_its_subject_is_what_the_requester_chose() -> Result<()> {
    let (bed, mut open) = on("p", &["ask"], BUFFER).await?;
    let client = bed.client.clone();
    let asking = tokio::spawn(async move { client.request("ask", "?".into()).await });
    let delivery = next(&mut open.source, 8).await?;
    let to = delivery.receipt.reply_to.clone().context("nobody waits")?;
    let headers = [("x-a", "1")].into_iter().collect();
    let answer = Outgoing {
        subject: to.to_string(),
        headers,
        payload: Bytes::from_static(b"!"),
        message_id: "not sent".into(),
    };
    bed.nats.publisher().send(&answer).await?;
    open.settle.ack(&delivery.receipt).await?;
    let answer = within(asking).await???;
    assert_eq!(&answer.payload[..], b"!");
    let headers = answer.headers.context("no headers")?;
    assert_eq!((headers.len(), headers.get("x-a").map(|value| value.as_str())), (1, Some("1")));
    Ok(())
}

#[tokio::test]
async fn an_answer_can_not_be_asked_for_where_it_would_do_harm() -> Result<()> {
    // B6, B7
    let (bed, mut open) = on("p", &["ask"], BUFFER).await?;
    let _input = opened(&bed, &plain("q", &["orders.*"], None, BUFFER)).await?;
    bed.store("in.a", ["pending".into()].into_iter()).await?;
    let mut pulled = bed.open(&binding("r", &["in.>"])).await?;
    let pending = next(&mut pulled.source, 1).await?;
    let denied = [
        pending.receipt.token.as_str(),
        "$JS.API.STREAM.DELETE.EVENTS",
        "$SYS.REQ.SERVER.PING",
        "$SRV.PING",
        "_R_.x.y",
        "busway.dlq.p.x.0",
        "orders.created",
        "in.b",
    ];
    let mut arrived = Vec::new();
    for reply in denied {
        bed.client.publish_with_reply("ask", reply.to_owned(), reply.to_owned().into()).await?;
    }
    // Some of these the broker itself refuses; what it lets through ends with this one.
    bed.client.publish("ask", "end".into()).await?;
    loop {
        let delivery = next(&mut open.source, 8).await?;
        assert_eq!((&delivery.receipt.reply_to, &delivery.receipt.position), (&None, &None), "{delivery:?}");
        open.settle.ack(&delivery.receipt).await?;
        match payload(&delivery) {
            end if end == "end" => break,
            reply => arrived.push(reply),
        }
    }
    for reply in ["$JS.API.STREAM.DELETE.EVENTS", "busway.dlq.p.x.0", "orders.created", "in.b"] {
        assert!(arrived.iter().any(|came| came == reply), "{reply} did not arrive: {arrived:?}");
    }
    assert_eq!(count(&open.counters.replies_denied), arrived.len() as u64);
    assert_eq!(bed.consumer("busway-r").await?.num_ack_pending, 1, "nobody acknowledged what is pending");
    for reply in ["_INBOX.a.b", "_INBOX_u1.x", "answers.mine"] {
        bed.client.publish_with_reply("ask", reply.to_owned(), "?".into()).await?;
        let delivery = next(&mut open.source, 8).await?;
        assert_eq!(delivery.receipt.reply_to.context("denied")?.as_str(), reply);
    }
    Ok(())
}

#[tokio::test]
async fn requesters_whose_request_is_shed_are_told_at_once() -> Result<()> {
    let (bed, mut open) = on("p", &["ask"], CoreBuffer { messages_max: 1, ..BUFFER }).await?;
    let ask = |bed: &Bed| {
        let client = bed.client.clone();
        tokio::spawn(async move { client.request("ask", "?".into()).await })
    };
    let code = |answer: async_nats::Message| {
        let code = answer.headers?.get("Nats-Service-Error-Code")?.as_str().to_owned();
        Some(code)
    };
    let first = ask(&bed);
    let held = next(&mut open.source, 8).await?;
    let (second, third) = (ask(&bed), ask(&bed));
    until(|| count(&open.counters.shed) == 1).await?;
    within(open.source.close()).await?;
    // Stopped, there is no later for what is put back now.
    open.settle.put_back(&held.receipt, Duration::from_secs(1)).await?;
    for asking in [first, second, third] {
        assert_eq!(code(within(asking).await???).as_deref(), Some("503"));
    }
    assert_eq!(count(&open.counters.shed), 3);
    Ok(())
}

#[tokio::test]
async fn a_closed_source_leaves_its_group() -> Result<()> {
    let (bed, mut open) = on("p", &["ask"], BUFFER).await?;
    within(open.source.close()).await?;
    within(async {
        loop {
            match bed.client.request("ask", "?".into()).await {
                Err(why) if why.kind() == async_nats::RequestErrorKind::NoResponders => return,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_plugin_shows_up_as_a_micro_service() -> Result<()> {
    let bed = Bed::new().await?;
    let name = "prices".parse()?;
    bed.nats.describe_service(&name, Some("1.2.3"), &[("digest", "sha256:x".to_owned())]);
    let mut open = opened(&bed, &plain("prices", &["prices.get"], Some("g"), BUFFER)).await?;
    let mut more = bed
        .open(&Binding { name: Some("more".into()), ..plain("prices", &["prices.put.*"], None, BUFFER) })
        .await?;
    tokio::spawn(more.beside.take().context("nothing beside it")?);
    bed.client.publish("prices.get", "x".into()).await?;
    let delivery = next(&mut open.source, 1).await?;
    let mut record = AttemptRecord::default();
    record.push(FailedRun { reason: "boom".into(), ..FailedRun::for_test(FailureClass::Trap) });
    open.settle.record_attempts(&delivery.receipt, &record).await?;
    open.settle.terminate(&delivery.receipt, "dead-lettered:trap").await?;

    let id = asked(&bed, "$SRV.PING").await?["id"].as_str().context("no id")?.to_owned();
    for subject in ["$SRV.PING".to_owned(), "$SRV.PING.prices".into(), format!("$SRV.PING.prices.{id}")] {
        let ping = asked(&bed, &subject).await?;
        assert_eq!(ping["type"], "io.nats.micro.v1.ping_response");
        assert_eq!((&ping["name"], &ping["version"]), (&"prices".into(), &"1.2.3".into()));
        assert_eq!((&ping["id"], &ping["metadata"]["digest"]), (&Value::from(&*id), &"sha256:x".into()));
    }
    let info = asked(&bed, "$SRV.INFO.prices").await?;
    let endpoint = |at: usize| {
        ["name", "subject", "queue_group"].map(|field| info["endpoints"][at][field].as_str().unwrap_or("-"))
    };
    assert_eq!(endpoint(0), ["prices-get", "prices.get", "g"]);
    assert_eq!(endpoint(1), ["prices-put-any", "prices.put.*", ""]);
    let stats = asked(&bed, "$SRV.STATS.prices").await?;
    let get = &stats["endpoints"][0];
    assert_eq!((get["num_requests"].as_u64(), get["num_errors"].as_u64()), (Some(1), Some(1)));
    assert_eq!(get["last_error"], "trap: boom");
    assert!(get["processing_time"].as_u64() > Some(0) && get["average_processing_time"].as_u64() > Some(0));
    assert_eq!(stats["endpoints"][1]["num_requests"].as_u64(), Some(0));

    // Exactly one of its bindings answers for the plugin.
    let inbox = bed.client.new_inbox();
    let mut answers = bed.client.subscribe(inbox.clone()).await?;
    bed.client.publish_with_reply("$SRV.PING", inbox.clone(), Bytes::new()).await?;
    within(answers.next()).await?.context("no answer")?;
    bed.client.publish_with_reply("$SRV.INFO", inbox, Bytes::new()).await?;
    let second: Value = serde_json::from_slice(&within(answers.next()).await?.context("no answer")?.payload)?;
    assert_eq!(second["type"], "io.nats.micro.v1.info_response");

    within(open.source.close()).await?;
    within(more.source.close()).await?;
    let client = &bed.client;
    let gone =
        tokio::time::timeout(Duration::from_millis(300), client.request("$SRV.PING.prices", Bytes::new()));
    assert!(gone.await.is_err(), "a plugin that has stopped is no service");
    Ok(())
}

async fn asked(bed: &Bed, subject: &str) -> Result<Value> {
    let answer = within(bed.client.request(subject.to_owned(), Bytes::new())).await??;
    Ok(serde_json::from_slice(&answer.payload)?)
}

#[tokio::test]
async fn a_request_gets_its_answer_or_one_reason_why_there_is_none() -> Result<()> {
    let bed = Bed::new().await?;
    let requests = bed.nats.requests().await?;
    let mut served = bed.client.subscribe("prices.*").await?;
    let client = bed.client.clone();
    tokio::spawn(async move {
        while let Some(question) = served.next().await {
            let Some(to) = question.reply else { continue };
            let mut headers = async_nats::HeaderMap::new();
            match question.subject.as_str() {
                "prices.get" => {
                    headers.append("x-from", question.headers.map_or("nobody".into(), |h| format!("{h:?}")))
                }
                "prices.bad" => {
                    headers.append("Nats-Service-Error", "no such thing");
                    headers.append("Nats-Service-Error-Code", "404");
                }
                _ => continue,
            }
            client.publish_with_headers(to, headers, question.payload).await?;
        }
        anyhow::Ok(())
    });
    bed.client.flush().await?;
    let ask = async |subject: &str, payload: &[u8], wait| {
        let headers = [("x-asks", "me")].into_iter().collect();
        let message = Message { subject: subject.into(), headers, payload: Bytes::copy_from_slice(payload) };
        within(requests.request(&message, wait)).await
    };
    let long = Duration::from_secs(10);
    let answer = ask("prices.get", b"tea", long).await??;
    assert_eq!((&*answer.subject, &answer.payload[..]), ("prices.get", &b"tea"[..]), "no inbox is shown");
    assert!(answer.headers.get("x-from").is_some_and(|asked| asked.contains("me")));
    let began = Instant::now();
    assert_eq!(ask("prices.slow", b"", Duration::from_millis(200)).await?, Err(RequestError::Timeout));
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(ask("nobody.there", b"", long).await?, Err(RequestError::NoResponders));
    let failed = RequestError::Service { code: "404".into(), words: "no such thing".into() };
    assert_eq!(ask("prices.bad", b"", long).await?, Err(failed));
    let captured = RequestError::Captured { stream: "EVENTS".into() };
    assert_eq!(ask("in.a", b"stored?", long).await?, Err(captured));
    let held = bed.jetstream().get_stream("EVENTS").await?.cached_info().state.messages;
    assert_eq!(held, 0, "what a stream captures was not sent");
    let large = vec![0; bed.nats.max_payload() + 1];
    assert!(matches!(ask("prices.get", &large, long).await?, Err(RequestError::TooLarge(_))));
    Ok(())
}

#[tokio::test]
async fn a_malformed_answer_ends_as_no_answer_and_the_next_request_is_answered() -> Result<()> {
    let bed = Bed::new().await?;
    let requests = bed.nats.requests().await?;
    let mut served = bed.client.subscribe("ask").await?;
    bed.client.flush().await?;
    let address = bed.server.address();
    let client = bed.client.clone();
    tokio::spawn(async move {
        let first = served.next().await.context("ended")?.reply.context("no reply")?;
        RawPublisher::connect(address)?.publish(first.as_bytes(), b"NATS/1.0\r\nno colon\r\n\r\n", b"x")?;
        while let Some(question) = served.next().await {
            client.publish(question.reply.context("no reply")?, "fine".into()).await?;
        }
        anyhow::Ok(())
    });
    let message = Message { subject: "ask".into(), headers: Default::default(), payload: Bytes::new() };
    let first = within(requests.request(&message, Duration::from_secs(1))).await?;
    assert_eq!(first, Err(RequestError::Timeout));
    within(async { while requests.request(&message, Duration::from_millis(500)).await.is_err() {} }).await?;
    assert_eq!(bed.nats.health(Role::Control).borrow().disconnects, 0);
    assert_eq!(bed.nats.health(Role::Egress).borrow().disconnects, 0);
    Ok(())
}

#[tokio::test]
async fn subjects_that_overlap_are_refused() -> Result<()> {
    let bed = Bed::new().await?;
    let refused = bed.nats.open(&plain("p", &["a.*", "*.b"], None, BUFFER), Default::default()).await;
    assert!(matches!(refused.err(), Some(OpenError::Overlap { .. })));
    let refused = bed.nats.open(&plain("p", &["a"], Some("a b"), BUFFER), Default::default()).await;
    assert!(matches!(refused.err(), Some(OpenError::Group { .. })));
    Ok(())
}

#[tokio::test]
async fn a_subscription_that_is_not_permitted_is_trouble_and_not_silence() -> Result<()> {
    let users = "authorization { users: [ { user: u, password: p, permissions: { subscribe: { deny: [\"secret.>\"] } } } ] }";
    let server = NatsServer::start_with(users)?;
    let auth = Auth::UserPassword { user: "u".into(), password: Secret::new("p") };
    let nats = Nats::connect(&NatsConfig { auth, ..NatsConfig::new(server.url()) }).await?;
    for (subject, is_permitted) in [("secret.a", false), ("open.a", true)] {
        let mut open = nats.open(&plain("p", &[subject], None, BUFFER), Default::default()).await?;
        let beside = tokio::spawn(open.beside.take().context("nothing beside it")?);
        let told = status(&mut open.status, |status| *status != SourceStatus::Opening).await?;
        match told {
            SourceStatus::Confirmed => assert!(is_permitted, "{subject}"),
            SourceStatus::Trouble(why) => assert!(!is_permitted && why.contains("secret.a"), "{why}"),
            other => panic!("{other:?}"),
        }
        beside.abort();
    }
    Ok(())
}
