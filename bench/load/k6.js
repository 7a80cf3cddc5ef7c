// k6 against level individual: k6 run bench/load/k6.js, no token.
// Another address: k6 run -e COORD_URL=http://localhost:8001 bench/load/k6.js
import http from "k6/http";
import { check } from "k6";

const url = __ENV.COORD_URL || "http://localhost:8000";

export const options = { vus: 100, duration: "30s" };

const message = JSON.stringify({
  from_agent: "code",
  to_agent: "chat",
  subject: "Build finished",
  body: "All tests are green on the main branch.",
});
const params = { headers: { "Content-Type": "application/json" } };

export default function () {
  const response = http.post(`${url}/api/v1/messages`, message, params);
  check(response, {
    "status is 200": (r) => r.status === 200,
    "response takes under 100 ms": (r) => r.timings.duration < 100,
  });
}
