"use strict";

// The examples are data, never markup: every text gets onto the page as a text node.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50;
const LONGEST_SHOWN = 2000; // characters of a context shown before the reader asks for all of it
const AROUND = 400; // characters around each answer in a longer one
const LOW_CONFIDENCE = 0.5;

const list = document.getElementById("list");
const more = document.getElementById("more");
const shownCount = document.getElementById("count");
const search = document.getElementById("search");
const order = document.getElementById("order");

const FILTERS = {
  all: () => true,
  wrong: (row) => !row.exact,
  right: (row) => Boolean(row.exact),
  "no-answer": (row) => (row.golds.length === 0) !== (row.answer === ""),
  unsure: (row) => row.confidence !== null && row.confidence < LOW_CONFIDENCE,
};
const ORDERS = {
  data: (a, b) => a.number - b.number,
  f1: (a, b) => a.f1 - b.f1,
  unsure: (a, b) => (a.confidence ?? 2) - (b.confidence ?? 2),
  sure: (a, b) => (b.confidence ?? -1) - (a.confidence ?? -1),
};

data.rows.forEach((row, number) => {
  row.number = number;
  const texts = [row.id, row.question, row.answer, ...row.golds.map((gold) => gold.text)];
  row.searched = texts.join("\n").toLowerCase();
});

let found = [];
let shown = 0;

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function text(value, className = "") {
  const node = element("span", `text ${className}`, value);
  node.dir = "auto";
  return node;
}

function percent(value) {
  return `${(100 * value).toFixed(0)}%`;
}

function answerOr(value) {
  return value === "" ? element("em", "", "no answer") : text(value);
}

function summaryOf(row) {
  const verdict = row.exact ? "right" : row.f1 > 0 ? `F1 ${percent(row.f1)}` : "wrong";
  const golds = row.golds.length ? [...new Set(row.golds.map((gold) => gold.text))] : [""];
  const answers = element("span", "answers", "predicted ", answerOr(row.answer), " · gold ");
  golds.slice(0, 3).forEach((gold, i) => answers.append(i ? " | " : "", answerOr(gold)));
  const sure = row.confidence === null ? "" : `${percent(row.confidence)} sure`;
  return element(
    "summary",
    "",
    element("span", `verdict ${row.exact ? "right" : "wrong"}`, verdict),
    text(row.question, "question"),
    element("span", "muted", sure),
    answers,
  );
}

// Cuts [0, length) at the ends of the spans; each piece knows which spans it lies in.
function pieces(length, spans) {
  const cuts = [...new Set([0, length, ...spans.flatMap((span) => [span.start, span.end])])];
  cuts.sort((a, b) => a - b);
  return cuts.slice(0, -1).map((start, i) => {
    const kinds = spans.filter((span) => span.start <= start && cuts[i + 1] <= span.end);
    return { start, end: cuts[i + 1], kinds: [...new Set(kinds.map((span) => span.kind))] };
  });
}

// Never between the two halves of a surrogate pair.
function wholeCharacter(context, place) {
  const code = context.charCodeAt(place);
  return code >= 0xdc00 && code < 0xe000 ? place + 1 : place;
}

function contextOf(row, everything) {
  const context = data.contexts[row.context];
  const spans = row.golds
    .filter((gold) => gold.start !== null)
    .map((gold) => ({ start: gold.start, end: gold.end, kind: "gold" }));
  if (row.start !== null) spans.push({ start: row.start, end: row.end, kind: "predicted" });
  const box = element("div", "text context");
  box.dir = "auto";
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "Context");
  const short = everything || context.length <= LONGEST_SHOWN;
  for (const piece of pieces(context.length, spans)) {
    const content = context.slice(piece.start, piece.end);
    if (piece.kinds.length) {
      box.append(element("mark", piece.kinds.join(" "), content));
    } else if (short || content.length <= 2 * AROUND) {
      box.append(content);
    } else {
      const before = piece.start === 0 && spans.length ? 0 : wholeCharacter(content, AROUND);
      const last = piece.end === context.length;
      const after = last ? content.length : wholeCharacter(content, content.length - AROUND);
      box.append(content.slice(0, before), element("span", "gap", " […] "), content.slice(after));
    }
  }
  return box;
}

function key(row) {
  const predicted = element("span", "", element("mark", "predicted", "predicted answer"));
  if (row.located) predicted.append(" (where its text first occurs)");
  if (row.answer !== "" && row.start === null) predicted.append(" (not in the text)");
  const gold = element("span", "", element("mark", "gold", "gold answer"));
  const kinds = element("div", "key muted");
  if (row.answer !== "") kinds.append(predicted);
  if (row.golds.length) kinds.append(gold);
  const facts = [`id ${row.id}`];
  if (row.na_prob !== null) facts.push(`no-answer probability ${row.na_prob.toPrecision(3)}`);
  if (row.chunks !== null) facts.push(`${row.chunks} chunk${row.chunks === 1 ? "" : "s"}`);
  kinds.append(...facts.map((fact) => element("span", "", element("bdi", "", fact))));
  return kinds;
}

function nBest(row) {
  const body = element("tbody");
  row.n_best.forEach(([answer, score], i) => {
    const cells = [element("td", "", String(i + 1)), element("td", "wide", answerOr(answer))];
    cells.push(element("td", "", score === null ? "" : score.toPrecision(4)));
    body.append(element("tr", "", ...cells));
  });
  const head = element("tr", "");
  for (const [name, className] of [["#", ""], ["Answer", "wide"], ["Score", ""]]) {
    const cell = element("th", className, name);
    cell.scope = "col";
    head.append(cell);
  }
  return element("table", "", element("thead", "", head), body);
}

function bodyOf(row) {
  const body = element("div", "body", key(row), contextOf(row, false));
  const length = data.contexts[row.context].length;
  if (length > LONGEST_SHOWN) {
    const button = element("button", "", `Show the whole text (${length.toLocaleString("en")} characters)`);
    button.type = "button";
    button.addEventListener("click", () => {
      const whole = contextOf(row, true);
      body.replaceChild(whole, body.querySelector(".context"));
      button.remove();
      whole.focus();
    });
    body.append(button);
  }
  if (row.n_best.length) body.append(nBest(row));
  return body;
}

function card(row) {
  const details = element("details", "card example", summaryOf(row));
  details.addEventListener("toggle", () => {
    if (details.open && !details.querySelector(".body")) details.append(bodyOf(row));
  });
  return element("li", "", details);
}

function showMore() {
  const next = found.slice(shown, shown + PAGE);
  list.append(...next.map(card));
  shown += next.length;
  more.hidden = shown >= found.length;
  more.textContent = `Show ${Math.min(PAGE, found.length - shown)} more`;
}

function update() {
  const filter = FILTERS[document.querySelector("input[name=filter]:checked").value];
  const wanted = search.value.trim().toLowerCase();
  found = data.rows.filter((row) => filter(row) && row.searched.includes(wanted));
  found.sort(ORDERS[order.value]);
  shown = 0;
  list.replaceChildren();
  showMore();
  const of = data.rows.length.toLocaleString("en");
  shownCount.textContent = `${found.length.toLocaleString("en")} of ${of} questions`;
}

for (const input of document.querySelectorAll("input[name=filter]")) {
  const matching = data.rows.filter(FILTERS[input.value]).length;
  input.nextElementSibling.append(` ${matching.toLocaleString("en")}`);
  input.disabled = input.value !== "all" && matching === 0;
  input.addEventListener("change", update);
}

let timer;
search.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(update, 150);
});
order.addEventListener("change", update);
more.addEventListener("click", () => {
  const first = shown;
  showMore();
  list.children[first]?.querySelector("summary").focus();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input[type=search], select")) return;
  if (event.key === "/") {
    event.preventDefault();
    search.focus();
  } else if (event.key === "j" || event.key === "k") {
    const items = [...list.querySelectorAll("summary")];
    const current = document.activeElement?.closest("#list li")?.querySelector("summary");
    const step = event.key === "j" ? 1 : -1;
    const next = current ? items[items.indexOf(current) + step] : items[0];
    if (next) next.focus();
    else if (event.key === "j" && !more.hidden) more.click();
  }
});

document.getElementById("examples").hidden = false;
update();
