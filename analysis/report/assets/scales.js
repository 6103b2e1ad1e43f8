// Axes: from figures to places on the page.

const WIDE_RANGE = 12; // Above this ratio of the extremes an axis is logarithmic.

function scale(values, from, to) {
  let low = Math.min(...values), high = Math.max(...values);
  const logarithmic = low > 0 && high / low > WIDE_RANGE;
  const into = logarithmic ? Math.log : value => value;
  const out = logarithmic ? Math.exp : value => value;
  const room = (into(high) - into(low)) * 0.06 || Math.abs(into(high)) * 0.1 || 1;
  const least = into(low) - room, most = into(high) + room;
  [low, high] = [logarithmic || least > 0 ? out(least) : Math.min(low, 0), out(most)];
  const [start, end] = [into(low), into(high)];
  const at = value => from + (into(value) - start) / (end - start) * (to - from);
  const count = Math.max(2, Math.floor(Math.abs(to - from) / (to < from ? 50 : 70)));
  return {at, logarithmic, ticks: logarithmic ? powers(low, high, count) : steps(low, high, count)};
}

function steps(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(each => each * power).find(each => each >= rough);
  const ticks = [];
  for (let place = Math.ceil(low / step); place * step <= high; place++) ticks.push(place * step);
  return ticks;
}

function powers(low, high, count) {
  for (const leads of [[1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      ticks.push(...leads.map(lead => lead * 10 ** power).filter(tick => tick >= low && tick <= high));
    }
    if (ticks.length <= count + 1 && ticks.length > 1) return ticks;
  }
  return [low, high];
}

const tickText = value => Number(value.toPrecision(4)).toLocaleString("en", {maximumSignificantDigits: 4});
