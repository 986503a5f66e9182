// Publishes one interaction and one feedback on it. Prints the interaction's id.
//
//     npm ci && npm run build && node publish.js 127.0.0.1:9092
//
// An event is one CloudEvents object in JSON. `id` is unique per `source`: who sends one again sends the same id, and nothing is counted twice.

import { randomUUID } from "node:crypto";
import { CompressionTypes, Kafka, logLevel } from "kafkajs";

interface Interaction {
  interaction_id: string;
  agent: { name: string; role?: string; version?: string };
  artifact_type: string;
  model: string;
  adapter?: string;
  prompt: string;
  output: string;
  latency_ms?: number;
}

interface Feedback {
  interaction_id: string;
  kind: string;
  score?: number;
  scale?: [number, number];
  name?: string;
  comment?: string;
  principal?: { id: string; kind: "human" | "validator" | "test" | "agent" };
}

const SOURCE = "agent:sql-bot/typescript";

function event(type: string, id: string, data: Interaction | Feedback): string {
  return JSON.stringify({ specversion: "1.0", id, source: SOURCE, type, time: new Date().toISOString(), data });
}

async function main(bootstrap: string, deployment: string): Promise<void> {
  const interactionId = randomUUID();
  const interaction = event("headrace.interaction.recorded.v1", interactionId, {
    interaction_id: interactionId,
    agent: { name: "sql-bot", version: "7" },
    artifact_type: "sql",
    model: "tiny-sql",
    prompt: "How many orders?",
    output: "select count(*) from orders",
    latency_ms: 412,
  });
  const feedback = event("headrace.feedback.recorded.v1", randomUUID(), {
    interaction_id: interactionId,
    kind: "rating",
    score: 4,
    scale: [1, 5],
    comment: "right, and “quick” too",
    principal: { id: "user-17", kind: "human" },
  });
  const kafka = new Kafka({ clientId: "sql-bot", brokers: bootstrap.split(","), logLevel: logLevel.ERROR });
  const producer = kafka.producer({ idempotent: true });
  await producer.connect();
  try {
    await producer.sendBatch({
      acks: -1,
      compression: CompressionTypes.GZIP,
      topicMessages: [
        { topic: `${deployment}.interactions`, messages: [{ key: interactionId, value: interaction }] },
        { topic: `${deployment}.feedback`, messages: [{ key: interactionId, value: feedback }] },
      ],
    });
  } finally {
    await producer.disconnect();
  }
  console.log(interactionId);
}

const [bootstrap = "127.0.0.1:9092", deployment = "headrace"] = process.argv.slice(2);
main(bootstrap, deployment).catch((error: unknown) => {
  console.error(`publish: ${String(error)}`);
  process.exit(1);
});
