// Sorting and filtering of the patients' table. Without JavaScript the table stands as written: failures first.
(function () {
  "use strict";
  var table = document.getElementById("table");
  if (!table) { return; }
  var body = table.tBodies[0], heads = Array.from(table.tHead.rows[0].cells), rows = Array.from(body.rows);
  var find = document.getElementById("find"), show = document.getElementById("show"), count = document.getElementById("count");
  var states = { failed: 0, warnings: 1, done: 2 };
  var compare = new Intl.Collator("en", { numeric: true, sensitivity: "base" }).compare;

  // Reading a cell touches the document; with 10,000 patients that is done once.
  var keys = heads.map(function () { return null; });
  function keysOf(column) {
    if (!keys[column]) {
      var numeric = heads[column].classList.contains("num"), state = heads[column].dataset.order === "state";
      keys[column] = new Map(rows.map(function (row) {
        var text = row.cells[column].textContent;
        if (state) { return [row, states[row.dataset.state]]; }
        if (!numeric) { return [row, text]; }
        var number = parseFloat(text.replace(/,/g, ""));
        return [row, Number.isNaN(number) ? null : number];
      }));
    }
    return keys[column];
  }

  function sort(column, descending) {
    var of = keysOf(column), sign = descending ? -1 : 1;
    rows.sort(function (a, b) {
      var x = of.get(a), y = of.get(b);
      if (x === null || y === null) { return (x === null) - (y === null); }  // what is missing comes last, both ways
      return sign * (typeof x === "number" ? x - y : compare(x, y));
    });
    lay();
    heads.forEach(function (head, i) {
      if (i === column) { head.setAttribute("aria-sort", descending ? "descending" : "ascending"); }
      else { head.removeAttribute("aria-sort"); }
    });
  }

  // A browser takes seconds to lay out 10,000 rows: the first thousand stand in the page until all are asked for.
  var limit = 1000, more = document.getElementById("more"), texts = null;

  function lay() {
    var words = find.value.trim().toLowerCase(), state = show.value, hits = rows;
    if (state) {
      hits = hits.filter(function (row) {
        return row.dataset.state === state || (state === "done" && row.dataset.state === "warnings");
      });
    }
    if (words) {
      texts = texts || new Map(rows.map(function (row) { return [row, row.textContent.toLowerCase()]; }));
      hits = hits.filter(function (row) { return texts.get(row).includes(words); });
    }
    body.replaceChildren.apply(body, hits.slice(0, limit));
    var cut = hits.length > limit;
    more.hidden = !cut;
    more.textContent = "Show all " + hits.length.toLocaleString("en");
    var found = hits.length === rows.length ? rows.length.toLocaleString("en") + " patients"
      : hits.length.toLocaleString("en") + " of " + rows.length.toLocaleString("en") + " patients";
    count.textContent = cut ? found + ", the first " + limit.toLocaleString("en") + " shown" : found;
  }

  heads.forEach(function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    while (head.firstChild) { button.appendChild(head.firstChild); }
    head.appendChild(button);
    button.addEventListener("click", function () { sort(column, head.getAttribute("aria-sort") === "ascending"); });
  });
  var waiting = 0;
  find.addEventListener("input", function () { clearTimeout(waiting); waiting = setTimeout(lay, 120); });
  show.addEventListener("change", lay);
  more.addEventListener("click", function () { limit = Infinity; lay(); });
  document.getElementById("table-controls").hidden = false;
  lay();
})();
