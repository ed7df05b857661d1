import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.security.MessageDigest;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Confluent Parallel Consumer as its README has it: pollAndProduce, commits by the consumer now and then. */
public class Peer {
  public static void main(String[] given) throws Exception {
    String servers = given[0], source = given[1], output = given[2], group = given[3];
    String handler = given[4], compression = given[6], order = given[7];
    int concurrency = Integer.parseInt(given[5]);
    var consumer = new KafkaConsumer<byte[], byte[]>(
        Map.of("bootstrap.servers", servers, "group.id", group, "auto.offset.reset", "earliest", "enable.auto.commit", "false",
            "max.poll.records", "2000"),
        new ByteArrayDeserializer(), new ByteArrayDeserializer());
    var producer = new KafkaProducer<byte[], byte[]>(
        Map.of("bootstrap.servers", servers, "linger.ms", "5", "batch.size", "262144", "compression.type", compression),
        new ByteArraySerializer(), new ByteArraySerializer());
    var options = ParallelConsumerOptions.<byte[], byte[]>builder()
        .ordering(ProcessingOrder.valueOf(order))
        .maxConcurrency(concurrency)
        .consumer(consumer)
        .producer(producer)
        .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
        .build();
    var processor = ParallelStreamProcessor.createEosStreamProcessor(options);
    processor.subscribe(List.of(source));
    processor.pollAndProduce(context -> {
      var record = context.getSingleConsumerRecord();
      return new ProducerRecord<>(output, record.key(), handled(handler, record.value()));
    });
    new CountDownLatch(1).await();
  }

  private static byte[] handled(String handler, byte[] value) {
    try {
      String[] parts = handler.split(":");
      if (parts[0].equals("sleep")) {
        Thread.sleep(Integer.parseInt(parts[1]));
      } else if (parts[0].equals("sha256")) {
        byte[] found = value;
        for (int round = 0; round < Integer.parseInt(parts[1]); round++) {
          found = MessageDigest.getInstance("SHA-256").digest(found);
        }
        byte[] whole = Arrays.copyOf(value, 32 + found.length);
        System.arraycopy(found, 0, whole, 32, found.length);
        return whole;
      }
      return value;
    } catch (Exception error) {
      throw new RuntimeException(error);
    }
  }
}
