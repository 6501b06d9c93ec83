//! Publishes each event, unchanged, to a subject built from its headers and payload.
//!
//! The rules are tried in the order in which they are written and the first one that holds gives the subject; after the
//! last one comes `default`. An event that nothing takes is a reject: to drop it in silence would be to lose it. The
//! payload is read as JSON only when a rule asks for a part of it, so anything can be routed by header.

mod facts;
mod rule;
mod template;

use busway_sdk::{Event, Failure, config, publish};

use facts::Facts;
use rule::Rule;
use template::Template;

#[busway_sdk::handler]
fn handle(event: Event) -> Result<(), Failure> {
    let rules: Vec<Rule> = config::json("rules")?.unwrap_or_default();
    let subject = choose(&rules, &Facts::of(&event))?;
    publish(event.forward(subject))?;
    Ok(())
}

fn choose(rules: &[Rule], facts: &Facts<'_>) -> Result<String, Failure> {
    for rule in rules {
        if rule.holds(facts)? {
            return rule.to.fill(facts);
        }
    }
    let Some(default) = config::get("default") else {
        return Err(Failure::reject("no-route", "no rule holds and there is no `default`"));
    };
    let default: Template = default.parse().map_err(|error| config::invalid("default", error))?;
    default.fill(facts)
}

#[cfg(test)]
mod tests;
