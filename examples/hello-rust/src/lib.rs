//! Adds up orders: reads `orders.created`, publishes `orders.totalled`.

use busway_sdk::{Event, Failure, Message, publish};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Order {
    id: u64,
    prices: Vec<f64>,
}

#[derive(Serialize)]
struct Total {
    id: u64,
    total: f64,
}

#[busway_sdk::handler]
fn handle(event: Event) -> Result<(), Failure> {
    let order: Order = event.json()?;
    if order.prices.is_empty() {
        return Err(Failure::reject("empty-order", format!("order {} has no items", order.id)));
    }
    let total = Total { id: order.id, total: order.prices.iter().sum() };
    publish(Message::json("orders.totalled", &total)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use busway_sdk::{Event, Failure, testing};

    use super::handle;

    #[test]
    fn an_order_is_totalled() {
        let run = testing::run(handle, Event::test("orders.created", r#"{"id": 7, "prices": [2.5, 4]}"#));
        assert_eq!(run.outputs[0].subject, "orders.totalled");
        assert_eq!(run.outputs[0].payload, br#"{"id":7,"total":6.5}"#);
    }

    #[test]
    fn an_order_without_items_is_rejected() {
        let run = testing::run(handle, Event::test("orders.created", r#"{"id": 7, "prices": []}"#));
        assert_eq!(run.outcome, Err(Failure::reject("empty-order", "order 7 has no items")));
    }
}
