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
    var all = document.createDocumentFragment();
    rows.forEach(function (row) { all.appendChild(row); });
    body.appendChild(all);
    heads.forEach(function (head, i) {
      if (i === column) { head.setAttribute("aria-sort", descending ? "descending" : "ascending"); }
      else { head.removeAttribute("aria-sort"); }
    });
  }

  function filter() {
    var words = find.value.trim().toLowerCase(), state = show.value, left = 0;
    rows.forEach(function (row) {
      var hit = (!state || row.dataset.state === state || (state === "done" && row.dataset.state === "warnings")) &&
        (!words || row.textContent.toLowerCase().includes(words));
      row.hidden = !hit;
      left += hit ? 1 : 0;
    });
    count.textContent = left === rows.length ? rows.length + " shown" : left + " of " + rows.length + " shown";
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
  find.addEventListener("input", function () { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  show.addEventListener("change", filter);
  document.getElementById("table-controls").hidden = false;
  filter();
})();
