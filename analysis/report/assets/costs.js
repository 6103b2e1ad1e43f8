// What splits cost by the parts of their pipeline: the sums and maxima of analysis/prediction/costs.py.

// Milliseconds of one message over a hop: how long the wire is busy with it, and from end to end.
const busyOf = ([, perByte], sent) => sent > 0 ? sent * perByte : 0;
const crossingOf = (hop, sent) => sent > 0 ? hop[0] + hop[2] + sent * hop[3] + busyOf(hop, sent) : 0;

// The hops that a split uses, and what it sends over each; behind the last rank that computes nothing crosses.
function messagesOf(parts, split) {
  const last = parts.forward_bytes.length - 1;
  const found = parts.hops.map((hop, rank) => [hop, split[rank] < last ? parts.forward_bytes[split[rank]] : 0]);
  const sink = split.filter(place => place < last).length;
  if (parts.back[sink]) found.push([parts.back[sink], parts.return_bytes]);
  return found;
}

function computingOf(parts, prefix, split) {
  const bounds = [0, ...split, parts.forward_bytes.length - 1];
  return prefix.map((times, rank) => times[bounds[rank + 1]] - times[bounds[rank]]);
}

// A host that waits long computes more slowly.
const WAIT_MS = 20;
const waited = gap => Math.log1p(Math.max(gap, 0) / WAIT_MS);

function latencyOf(parts, split) {
  const computing = computingOf(parts, parts.waiting_ms, split);
  const latency = computing.reduce((a, b) => a + b, 0)
    + messagesOf(parts, split).reduce((total, [hop, sent]) => total + crossingOf(hop, sent), 0);
  return computing.reduce((total, time, rank) =>
    total + time * parts.slowing[rank] * waited(latency - time), latency);
}

const busiestOf = (parts, split) => Math.max(
  ...computingOf(parts, parts.busy_ms, split).map((time, rank) => time > 0 ? time + parts.item_ms[rank] : 0),
  ...messagesOf(parts, split).map(([hop, sent]) => busyOf(hop, sent)));

// Items per second.
const throughputOf = (parts, split, window) =>
  1000 / Math.max(busiestOf(parts, split), latencyOf(parts, split) / window);

// The same pipeline over other hops, whose software takes as much as those measured.
function over(parts, rate, delay) {
  const hop = ([, , perMessage, perByte]) => [delay, parts.ms_per_byte_at_1_mbit / rate, perMessage, perByte];
  return {...parts, hops: parts.hops.map(hop), back: parts.back.map(way => way && hop(way))};
}

// Which of some costs no other is better than, as analysis/tables/front.py has it: ties stay.
function frontOf(marks) {
  const order = [...marks].sort((a, b) => a.x - b.x || b.y - a.y), found = new Set();
  let best = -Infinity, at = null;
  for (const mark of order) {
    if (mark.y > best || mark.y === best && mark.x === at) {
      found.add(mark);
      [best, at] = [mark.y, mark.x];
    }
  }
  return found;
}
