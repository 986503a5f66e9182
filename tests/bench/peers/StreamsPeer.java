/** The job in Kafka Streams: exactly once (v2), one thread, state in RocksDB with a changelog. */
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

public class StreamsPeer {
    static final ObjectMapper JSON = new ObjectMapper();

    static class Join implements Processor<byte[], byte[], byte[], byte[]> {
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<Bytes, byte[]> cases;

        @Override
        public void init(ProcessorContext<byte[], byte[]> context) {
            this.context = context;
            cases = context.getStateStore("cases");
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            try {
                JsonNode event = JSON.readTree(record.value());
                JsonNode data = event.get("data");
                Bytes key = Bytes.wrap(record.key());
                if (event.get("type").asText().equals("headrace.interaction.recorded.v1")) {
                    ObjectNode kept = JSON.createObjectNode();
                    for (String name : new String[] {"artifact_type", "prompt", "output"}) kept.set(name, data.get(name));
                    cases.put(key, JSON.writeValueAsBytes(kept));
                    return;
                }
                byte[] known = cases.get(key);
                if (known == null) return;
                ObjectNode example = (ObjectNode) JSON.readTree(known);
                example.put("id", data.get("interaction_id").asText());
                example.put("reward", Math.tanh((data.get("score").asDouble() - 50) / 50));
                context.forward(new Record<>(record.key(), JSON.writeValueAsBytes(example), record.timestamp()));
            } catch (java.io.IOException error) {
                throw new RuntimeException(error);
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, System.getenv("PEER_NAME"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getenv("PEER_BOOTSTRAP"));
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, System.getenv("PEER_FOLDER"));
        settings.put("auto.offset.reset", "earliest");
        Topology topology = new Topology();
        var bytes = Serdes.ByteArray();
        topology.addSource("in", bytes.deserializer(), bytes.deserializer(), System.getenv("PEER_INPUT"));
        topology.addProcessor("join", Join::new, "in");
        topology.addStateStore(
            Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore("cases"), Serdes.Bytes(), bytes), "join");
        topology.addSink("out", System.getenv("PEER_OUTPUT"), bytes.serializer(), bytes.serializer(), "join");
        KafkaStreams streams = new KafkaStreams(topology, settings);
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
        Thread.currentThread().join();
    }
}
