// Publishes one interaction and one feedback on it. Prints the interaction's id.
//
//     java -cp 'libs/*' Publish.java 127.0.0.1:9092
//
// libs/ holds kafka-clients and slf4j-api; any JSON library will do instead of the text blocks below.
// An event is one CloudEvents object. `id` is unique per `source`: who sends one again sends the same id, and nothing is counted twice.

import java.time.Instant;
import java.util.Map;
import java.util.UUID;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

public class Publish {
    private static final String SOURCE = "agent:sql-bot/java";

    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments.length > 0 ? arguments[0] : "127.0.0.1:9092";
        String deployment = arguments.length > 1 ? arguments[1] : "headrace";
        String interactionId = UUID.randomUUID().toString();
        String interaction = event("headrace.interaction.recorded.v1", interactionId, """
            {"interaction_id": %s, "agent": {"name": "sql-bot", "version": "7"}, "artifact_type": "sql", "model": "tiny-sql",
             "prompt": %s, "output": %s, "latency_ms": 412}
            """.formatted(text(interactionId), text("How many orders?"), text("select count(*) from \"orders\"")));
        String feedback = event("headrace.feedback.recorded.v1", UUID.randomUUID().toString(), """
            {"interaction_id": %s, "kind": "validation_failure", "score": 2, "scale": [0, 5], "name": "unit_tests",
             "corrected_output": %s, "principal": {"id": "nightly", "kind": "test"}}
            """.formatted(text(interactionId), text("select count(*) from orders")));
        Map<String, Object> settings = Map.of(
            ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap,
            ProducerConfig.ACKS_CONFIG, "all",
            ProducerConfig.MAX_BLOCK_MS_CONFIG, 30_000);
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            var first = producer.send(new ProducerRecord<>(deployment + ".interactions", interactionId, interaction));
            var second = producer.send(new ProducerRecord<>(deployment + ".feedback", interactionId, feedback));
            first.get(); // throws when the broker did not take it
            second.get();
        }
        System.out.println(interactionId);
    }

    private static String event(String type, String id, String data) {
        return """
            {"specversion": "1.0", "id": %s, "source": %s, "type": %s, "time": %s, "data": %s}
            """.formatted(text(id), text(SOURCE), text(type), text(Instant.now().toString()), data);
    }

    /** A string as JSON. */
    private static String text(String value) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char c : value.toCharArray()) {
            switch (c) {
                case '"' -> quoted.append("\\\"");
                case '\\' -> quoted.append("\\\\");
                default -> quoted.append(c < 0x20 ? "\\u%04x".formatted((int) c) : String.valueOf(c));
            }
        }
        return quoted.append('"').toString();
    }
}
