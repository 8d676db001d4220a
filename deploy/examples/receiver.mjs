// A webhook receiver with nothing but Node: copy it, or run it to see what arrives.
//
//     node receiver.mjs whsec_… [PORT]
//
// It answers 401 to whatever is not signed with the secret, or not lately, and says when it has
// seen a message before: ours arrive at least once, in no promised order.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const MOST_BYTES = 20_000;
const TOLERANCE_SECONDS = 300;

// What is wrong with a message, or null if it is ours: see standardwebhooks.com.
export function verify(headers, body, secret) {
  const id = headers["webhook-id"];
  const timestamp = headers["webhook-timestamp"];
  const signatures = headers["webhook-signature"];
  if (!id || !/^\d+$/.test(timestamp ?? "") || !signatures) return "it is not signed";
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_SECONDS) {
    return "it is not of these five minutes";
  }
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const expected = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest();
  for (const signature of signatures.split(" ")) {
    const [version, value] = signature.split(",");
    const given = Buffer.from(value ?? "", "base64");
    // Several while the secret is being changed; compared without telling how far they agree.
    if (version === "v1" && given.length === expected.length && timingSafeEqual(given, expected)) {
      return null;
    }
  }
  return "it is signed with another secret, or was changed on its way";
}

const [secret, port = "9000"] = process.argv.slice(2);
const seen = new Set();

if (!secret?.startsWith("whsec_")) {
  console.error("usage: node receiver.mjs whsec_… [port]");
  process.exit(2);
}

// A sender that hangs up in the middle must not end the process.
const server = createServer((request, response) => receive(request, response).catch(() => response.destroy()));

async function receive(request, response) {
  const answer = (status) => response.writeHead(status).end();
  const pieces = [];
  let bytes = 0;
  for await (const piece of request) {
    bytes += piece.length;
    if (bytes > MOST_BYTES) return answer(413);
    pieces.push(piece);
  }
  const body = Buffer.concat(pieces);
  const problem = verify(request.headers, body, secret);
  if (problem) {
    console.log(`refused: ${problem}`);
    return answer(401);
  }
  // A real receiver puts it into its own queue here, and answers soon: within 15 s.
  const id = request.headers["webhook-id"];
  console.log(`${id}${seen.has(id) ? " again" : ""}`);
  console.log(JSON.stringify(JSON.parse(body), null, 2));
  seen.add(id);
  answer(204);
}

server.listen(Number(port), "127.0.0.1", () =>
  console.log(`listening on port ${server.address().port}`),
);
