"use strict";
// Sorts tables, filters what has a name, copies, and hands out what is shown as CSV. Nothing is asked of anybody.
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const made = (tag, about) => Object.assign(document.createElement(tag), about);
  const by = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  const keyOf = (cell) => {
    const text = cell.dataset.v ?? cell.textContent.trim();
    return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  };

  function sort(table, at, head) {
    const body = table.tBodies[0];
    const lines = [...body.rows].map((row) => [keyOf(row.cells[at]), row]);
    const numeric = lines.every(([key]) => key === null || typeof key === "number");
    const before = head.getAttribute("aria-sort");
    const rising = before ? before === "descending" : !numeric;
    const order = (a, b) => (numeric ? a - b : by.compare(String(a), String(b))) * (rising ? 1 : -1);
    lines.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : order(a, b)));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    body.replaceChildren(...lines.map(([, row]) => row));
    show(table);
  }

  // Of long tables some lines are laid out, more when they are scrolled to: thousands at once take a second.
  const FEW = 100;
  const limits = new Map();

  function show(table) {
    let left = limits.get(table) ?? FEW;
    for (const row of table.tBodies[0].rows) row.classList.toggle("later", !row.hidden && left-- <= 0);
  }

  for (const table of all(".tall > table")) {
    const count = table.tBodies[0].rows.length;
    if (count <= FEW) continue;
    const frame = table.parentElement;
    const more = (limit) => {
      limits.set(table, limit);
      show(table);
    };
    frame.addEventListener("scroll", () => {
      const near = frame.scrollTop + 2 * frame.clientHeight > frame.scrollHeight;
      if (near && (limits.get(table) ?? FEW) < count) more((limits.get(table) ?? FEW) + FEW);
    });
    const button = made("button", { type: "button", textContent: `Show all ${count} lines` });
    button.addEventListener("click", () => {
      more(count);
      button.remove();
    });
    frame.after(button);
  }

  for (const table of all("table[data-sort]")) {
    [...table.tHead.rows[0].cells].forEach((head, at) => {
      const button = made("button", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, at, head));
    });
  }

  // Filters. What a line does not say itself, the line of its backbone, #b<number>, says.
  const form = document.querySelector("form.filter");
  const items = all("[data-item]");
  const fact = (item, name) => item.dataset[name] ?? document.getElementById(`b${item.dataset.b}`)?.dataset[name];
  const named = (item) => [item.textContent, ...all("img", item).map((image) => image.alt)].join(" ").toLowerCase();
  const words = new Map(items.map((item) => [item, named(item)]));

  const passes = (item, [name, value]) => {
    if (name === "q") return value.toLowerCase().split(/\s+/).every((word) => words.get(item).includes(word));
    const own = fact(item, name.replace(/^(min|max)-/, ""));
    if (own === undefined) return item.dataset.b === undefined;
    if (name.startsWith("max-")) return own !== "" && Number(own) <= Number(value);
    return own === value;
  };

  function filter() {
    const wanted = [...new FormData(form)].filter(([, value]) => value !== "");
    let shown = 0;
    for (const item of items) {
      const ok = wanted.every((one) => passes(item, one));
      item.toggleAttribute("hidden", !ok);
      shown += ok;
    }
    all(".tall > table").forEach(show);
    form.querySelector("output").textContent = wanted.length ? `${shown} of ${items.length} shown` : "";
    return wanted;
  }

  function note(wanted) {
    const place = location.hash.slice(1).split("&")[0];
    const id = place.includes("=") ? "" : place;
    const text = [id, String(new URLSearchParams(wanted))].filter(Boolean).join("&");
    history.replaceState(null, "", `#${text}`);
  }

  function take() {
    const [id, ...rest] = location.hash.slice(1).split("&");
    const given = new URLSearchParams(id.includes("=") ? [id, ...rest].join("&") : rest.join("&"));
    for (const [name, value] of given) {
      const control = form.elements.namedItem(name);
      if (control) control.value = value;
    }
    if (!id.includes("=")) document.getElementById(id)?.scrollIntoView();
  }

  if (form) {
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => note(filter()));
    form.addEventListener("reset", () => setTimeout(() => note(filter())));
    addEventListener("hashchange", () => {
      if (location.hash.includes("=")) take();
      note(filter());
    });
    if (location.hash.includes("=")) {
      take();
      filter();
    }
  }

  // Texts to copy.
  for (const text of all("[data-copy]")) {
    const button = made("button", { type: "button", textContent: "Copy" });
    button.addEventListener("click", async () => {
      const done = await navigator.clipboard?.writeText(text.textContent).then(() => true, () => false);
      if (!done) getSelection().selectAllChildren(text);
      button.textContent = done ? "Copied" : "Selected";
    });
    text.before(button);
  }

  // CSV of the lines that are shown, numbers in full; no cell that a spreadsheet would compute.
  const safe = (text) => (/^[\s\0]*[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const value = (cell) => cell.dataset.v ?? quoted(safe(cell.dataset.text ?? cell.textContent.trim()));

  function csv(table) {
    const rows = [...table.tBodies[0].rows];
    const heads = [...table.tHead.rows[0].cells];
    const ends = heads.map((_, at) => rows.some((row) => row.cells[at].dataset.low !== undefined));
    const called = heads.map((head) => quoted(head.innerText.replace(/\s+/g, " ").trim()));
    const lines = [called.flatMap((name, at) => (ends[at] ? [name, "low", "high"] : [name]))];
    for (const row of rows.filter((one) => !one.hidden)) {
      lines.push([...row.cells].flatMap((cell, at) => {
        const { low = "", high = "" } = cell.dataset;
        return ends[at] ? [value(cell), low, high] : [value(cell)];
      }));
    }
    return lines.map((line) => line.join(",")).join("\n") + "\n";
  }

  for (const table of all("table[data-csv]")) {
    const button = made("button", { type: "button", textContent: "Download as CSV" });
    button.addEventListener("click", () => {
      const href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
      made("a", { href, download: table.dataset.csv }).click();
      setTimeout(() => URL.revokeObjectURL(href), 1000);
    });
    table.parentElement.after(button);
  }
})();
