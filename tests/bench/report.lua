-- SPDX-License-Identifier: MIT
-- For wrk: one line of figures (requests, microseconds, p50, p99, errors) instead of rounded text.
function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format("figures %d %d %d %d %d\n", summary.requests, summary.duration,
                          latency:percentile(50), latency:percentile(99),
                          e.connect + e.read + e.write + e.status + e.timeout))
end
