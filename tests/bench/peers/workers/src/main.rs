//! rust-rdkafka's concurrent worker scaling (its example asynchronous_processing.rs): N workers share
//! a consumer and a producer; each receives, has the blocking handler run on a thread for such, sends.
//! Offsets are stored when a result is delivered and committed by librdkafka, without a look at what is
//! still running below them.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use sha2::{Digest, Sha256};

fn handle(handler: &str, value: &[u8]) -> Vec<u8> {
    let (kind, number) = handler.split_once(':').unwrap_or((handler, "0"));
    match kind {
        "sleep" => {
            std::thread::sleep(Duration::from_millis(number.parse().unwrap()));
            value.to_vec()
        }
        "sha256" => {
            let mut found = value.to_vec();
            for _ in 0..number.parse::<u32>().unwrap() {
                found = Sha256::digest(&found).to_vec();
            }
            [&value[..32], &found].concat()
        }
        _ => value.to_vec(),
    }
}

async fn work(consumer: Arc<StreamConsumer>, producer: FutureProducer, output: String, handler: Arc<String>) {
    loop {
        let message: OwnedMessage = match consumer.recv().await {
            Ok(borrowed) => borrowed.detach(),
            Err(error) => {
                eprintln!("{error}");
                continue;
            }
        };
        let value = message.payload().unwrap_or(&[]).to_vec();
        let own = handler.clone();
        let found = tokio::task::spawn_blocking(move || handle(&own, &value)).await.unwrap();
        let key = message.key().unwrap_or(&[]).to_vec();
        let record = FutureRecord::to(&output).key(&key).payload(&found);
        producer.send(record, Duration::from_secs(30)).await.expect("delivered");
        consumer.store_offset(message.topic(), message.partition(), message.offset()).expect("stored");
    }
}

#[tokio::main]
async fn main() {
    let given: Vec<String> = env::args().collect();
    let (servers, source, output, group) = (&given[1], &given[2], &given[3], &given[4]);
    let handler = Arc::new(given[5].clone());
    let concurrency: usize = given[6].parse().unwrap();
    let consumer: Arc<StreamConsumer> = Arc::new(
        ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("group.id", group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.offset.store", "false")
            .create()
            .unwrap(),
    );
    consumer.subscribe(&[source]).unwrap();
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("linger.ms", "5")
        .set("compression.type", &given[7])
        .create()
        .unwrap();
    (0..concurrency)
        .map(|_| tokio::spawn(work(consumer.clone(), producer.clone(), output.clone(), handler.clone())))
        .collect::<FuturesUnordered<_>>()
        .for_each(|_| async {})
        .await
}
