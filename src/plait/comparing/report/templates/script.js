"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const MINUS = "\u2212", FIRST = 50;

  // Theme: automatic, then the other one, then back.
  const theme = $("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const order = ["auto", "light", "dark"];
    const next = order[(order.indexOf(root.dataset.theme || "auto") + 1) % 3];
    if (next === "auto") delete root.dataset.theme; else root.dataset.theme = next;
    theme.textContent = "Theme: " + next;
  });

  const copy = $("copy");
  if (copy) {
    copy.hidden = false;
    copy.addEventListener("click", () => {
      const code = document.querySelector("#recipe code");
      const selection = getSelection();
      selection.selectAllChildren(code);
      const said = (text) => { copy.textContent = text; };
      if (!navigator.clipboard) { said("Selected"); return; }
      navigator.clipboard.writeText(code.textContent).then(() => said("Copied"), () => said("Selected"));
    });
  }

  const data = JSON.parse($("figures").textContent);
  if (!data.ways.length || !data.tasks.length) return;
  const table = $("every"), body = table.tBodies[0], more = $("more"), find = $("find");
  const way = $("way"), metric = $("metric"), verdict = $("verdict");
  const VERDICTS = { "+": ["help", "\u25b2 helped"], "-": ["harm", "\u25bc harmed"],
    "=": ["noise", "\u2248 within noise"], "?": ["none", "undefined"] };
  const state = { sort: data.tasks.length > FIRST ? "gain" : "", down: false, shown: FIRST };

  const option = (select, value, text) => {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = text;
    select.append(made);
  };
  data.ways.forEach((name, w) => option(way, w, name + (data.plain[w] ? " (plain baseline)" : "")));
  option(way, "all", "all strategies");
  way.value = data.focus;
  option(metric, "", "ranking metric");
  if (data.every && data.metrics.length > 1) data.metrics.forEach((name, m) => option(metric, m, name));
  if (metric.options.length < 2) metric.parentElement.hidden = true;

  // Figures arrive rounded, as texts where a number would lose its last zeros.
  const write = (given, signed) => {
    const number = Number(given), size = Math.abs(number);
    const places = (String(given).split(".")[1] || "").length;
    const far = size >= 1e7 || places > 7 || String(given).includes("e");
    const text = far ? size.toPrecision(3) : size.toLocaleString("en-US",
      { minimumFractionDigits: places, maximumFractionDigits: places });
    return (number < 0 ? MINUS : signed && number > 0 ? "+" : "") + text;
  };
  const texts = (three, signed) => {
    const [value, low, high] = three.map((given) => given === null ? "" : write(given, signed));
    if (!low || !high || Number(three[1]) === Number(three[2])) return [value, ""];
    return [value, low + (!signed && three[1] >= 0 ? "\u2013" : " to ") + high];
  };
  const three = (list, t) => list ? list.slice(3 * t, 3 * t + 3) : [null, null, null];
  const number = (given) => given === null ? null : Number(given);
  const figure = (w, t) => {
    if (w < 0) return [null, null, null];
    return three(data.figures[w][data.every ? metricOf(t) : 0], t);
  };
  const gain = (w, t) => three(data.gains[w], t);
  const metricOf = (t) => metric.value === "" ? data.ranking[t] : Number(metric.value);
  const metricName = (t) => data.metrics[metricOf(t)];

  const make = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const cell = (label, className, ...inside) => {
    const made = make("td", className);
    made.setAttribute("role", "cell");
    made.dataset.label = label;
    made.append(...inside);
    return made;
  };
  const undefinedBecause = (reason) => {
    const made = make("abbr", "undefined", "undefined");
    made.tabIndex = 0;
    made.title = reason;
    made.setAttribute("aria-label", "undefined: " + reason);
    return made;
  };
  const measured = (label, numbers, reason) => {
    if (numbers[0] === null) return cell(label, "figure", undefinedBecause(reason));
    const [value, bounds] = texts(numbers, false);
    return cell(label, "figure", value, make("small", "", bounds));
  };

  const SVG = "http://www.w3.org/2000/svg";
  const shape = (tag, attributes, ...inside) => {
    const made = document.createElementNS(SVG, tag);
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    made.append(...inside);
    return made;
  };
  const [lowest, highest] = data.scale;
  const place = (number) => 100 * (number - lowest) / (highest - lowest);
  const inside = (number) => Math.min(Math.max(place(number), 0), 100) + "%";
  const whisker = (given, tone) => {
    const [value, low, high] = given.map(number);
    const zero = place(0) + "%", at = place(value);
    const drawn = [shape("line", { class: "zero", x1: zero, x2: zero, y1: 0, y2: 16 })];
    if (low !== null && high !== null && high > low) {
      drawn.push(shape("line", { x1: inside(low), x2: inside(high), y1: 8, y2: 8 }));
    }
    if (at < 0 || at > 100) {
      const path = shape("path", { d: at < 0 ? "M0 0l7-4.5v9z" : "M0 0l-7-4.5v9z" });
      drawn.push(shape("svg", { class: "past", x: at < 0 ? "0%" : "100%", y: 8 }, path));
    } else {
      drawn.push(shape("circle", { cx: at + "%", cy: 8, r: 4 }));
    }
    return shape("svg", { class: "whisker " + tone, "aria-hidden": "true" }, ...drawn);
  };

  const row = ([t, w]) => {
    const made = document.createElement("tr"), head = document.createElement("th");
    made.setAttribute("role", "row");
    head.setAttribute("role", "rowheader");
    head.scope = "row";
    head.append(make("span", "name", data.tasks[t]), make("small", "name", data.kinds[t]));
    const [tone, words] = VERDICTS[data.verdicts[w][t]];
    const numbers = gain(w, t), reason = data.reasons[data.why[w][t]] || "the metric is undefined";
    const count = (n) => n === null ? "\u2013" : n.toLocaleString("en-US");
    const value = make("span", "value");
    const line = cell("Gain, %", "line");
    if (numbers[0] === null) {
      value.append(undefinedBecause(reason));
    } else {
      const [text, bounds] = texts(numbers, true);
      value.append(make("b", "", text), " ", make("span", "bounds", bounds));
      line.append(whisker(numbers, tone));
    }
    line.append(value);
    made.append(head,
      cell("Labels: train, test", "figure", count(data.train[t]), make("small", "", count(data.test[t]))),
      cell("Strategy", "way name", data.ways[w]),
      cell("Metric", "", make("span", "name", metricName(t)), ...(data.lower[metricOf(t)] ? [make("small", "", "lower is better")] : [])),
      measured("separate", figure(data.separate, t), reason),
      measured("this strategy", figure(w, t), reason),
      line, cell("Verdict", "tone " + tone, words));
    return made;
  };

  const KEYS = {
    task: ([t]) => data.tasks[t].toLowerCase(), labels: ([t]) => data.train[t], way: ([, w]) => w,
    metric: ([t]) => metricName(t), separate: ([t]) => number(figure(data.separate, t)[0]),
    figure: ([t, w]) => number(figure(w, t)[0]), gain: ([t, w]) => number(gain(w, t)[0]),
  };
  const names = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => {
    const [x, y] = [KEYS[state.sort](a), KEYS[state.sort](b)];
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "string" ? names.compare(x, y) : x - y;
    return state.down ? -order : order;
  };

  const show = () => {
    const all = way.value === "all", asked = find.value.trim().toLowerCase();
    const ways = all ? data.ways.map((_, w) => w) : [Number(way.value)];
    const rows = [];
    data.tasks.forEach((name, t) => {
      if (asked && !name.toLowerCase().includes(asked)) return;
      ways.forEach((w) => {
        if (!verdict.value || data.verdicts[w][t] === verdict.value) rows.push([t, w]);
      });
    });
    if (state.sort) rows.sort(compare);
    table.classList.toggle("all", all);
    $("focus").textContent = all ? "strategy" : data.ways[way.value];
    body.replaceChildren(...rows.slice(0, state.shown).map(row));
    const seen = Math.min(rows.length, state.shown), what = all ? "rows" : "tasks";
    const whole = all ? data.tasks.length * data.ways.length : data.tasks.length;
    $("shown").textContent = rows.length === whole && seen === whole
      ? `All ${whole} ${what}.`
      : `Showing ${seen} of ${rows.length} ${what}` +
        (rows.length < whole ? ` that match, of ${whole}.` : ".");
    more.hidden = seen === rows.length;
    more.textContent = `Show ${Math.min(500, rows.length - seen)} more`;
    table.querySelectorAll("th[data-sort]").forEach((head) => {
      if (head.dataset.sort !== state.sort) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    });
  };

  table.querySelectorAll("th[data-sort]").forEach((head) => {
    const button = document.createElement("button");
    button.type = "button";
    const label = [...head.childNodes].filter((node) => node.nodeName !== "svg" && node.nodeName !== "SMALL");
    head.prepend(button);
    button.append(...label);
    button.addEventListener("click", () => {
      const same = state.sort === head.dataset.sort;
      state.down = same ? !state.down : false;
      state.sort = head.dataset.sort;
      show();
    });
  });
  [way, metric, verdict].forEach((select) => select.addEventListener("change", () => { state.shown = FIRST; show(); }));
  find.addEventListener("input", () => { state.shown = FIRST; show(); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { state.shown += 500; show(); });
  $("filters").hidden = false;
  show();
})();
