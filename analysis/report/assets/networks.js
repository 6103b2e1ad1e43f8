// Links side by side: where along the model each front lies.

const LINK = data.facets.findIndex(facet => facet.column === "link");

function drawNetworks() {
  const section = byId("networks");
  section.hidden = data.facets[LINK].values.length < 2;
  if (section.hidden) return;
  const groups = chosen([LINK]).sort((a, b) => data.groups[a][LINK] - data.groups[b][LINK]);
  const beside = differing(groups).filter(place => place !== LINK);
  const own = points.filter(point => groups.includes(point.group));
  const positions = [...new Set(own.map(point => point.position))].sort((a, b) => a - b);
  const place = new Map(positions.map((position, order) => [position, order]));
  const rows = groups.map(group => {
    const measured = own.filter(point => point.group === group && known(point.latency) && known(point.throughput) && !point.uncertified);
    const soonest = measured.reduce((best, point) => !best || point.latency < best.latency ? point : best, null);
    const most = measured.reduce((best, point) => !best || point.throughput > best.throughput ? point : best, null);
    return make("tr", {},
      make("th", {scope: "row"}, valueOf(group, LINK), beside.length ? make("small", {}, titleOf(group, beside)) : null),
      make("td", {class: "strip"}, strip(own.filter(point => point.group === group), place)),
      make("td", {"data-title": "Answers soonest"}, soonest ? make("b", {}, soonest.label) : "–", soonest ? make("small", {}, `${figure(soonest.latency)} ms`) : null),
      make("td", {"data-title": "Brings most"}, most ? make("b", {}, most.label) : "–", most ? make("small", {}, `${figure(most.throughput)} images/s`) : null));
  });
  byId("network-table").replaceChildren(make("table", {class: "networks"}, make("thead", {}, make("tr", {},
    ...["Link", "The front along the model", "Answers soonest", "Brings most"].map(text => make("th", {scope: "col"}, text)))),
  make("tbody", {}, ...rows)));
}

function strip(own, place) {
  const width = 320, height = 26, step = (width - 20) / Math.max(1, place.size - 1);
  const front = own.filter(point => point.front).sort((a, b) => a.position - b.position);
  const picture = draw("svg", {viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `On the front: ${front.map(point => point.label).join(", ") || "none"}`});
  picture.append(draw("line", {class: "track", x1: 10, x2: width - 10, y1: 13, y2: 13}));
  const drawn = [...own].sort((a, b) => a.front - b.front);
  for (const point of drawn) {
    const x = 10 + step * place.get(point.position);
    const title = draw("title", {}, `${point.label}${point.front ? ": on the front" : ""}`);
    const shape = known(point.sole) ? SHAPES[1 + point.sole % 4] : null;
    const look = {class: `key ${point.front ? "strong" : point.status === "ok" ? "pale" : "open"}`};
    picture.append(draw("g", {transform: `translate(${x.toFixed(1)} 13)`},
      shape ? draw("path", {d: shape, transform: point.front ? null : "scale(.6)", ...look})
        : draw("circle", {r: point.front ? 5.5 : Math.min(3, Math.max(1, step / 3)), ...look}), title));
  }
  return picture;
}
