(function () {
  "use strict";
  var root = document.documentElement;

  // light and dark
  var button = document.getElementById("theme");
  function dark() {
    if (root.dataset.theme) { return root.dataset.theme === "dark"; }
    return window.matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function label() { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", "Switch to " + (dark() ? "light" : "dark") + " colours"); }
  if (button) {
    button.hidden = false;
    label();
    button.addEventListener("click", function () { root.dataset.theme = dark() ? "light" : "dark"; label(); });
  }

  // tables: a click on a heading sorts by it, a second one the other way round
  function key(row, i) {
    var cell = row.cells[i];
    if (cell.classList.contains("num")) { return cell.dataset.v === undefined ? null : parseFloat(cell.dataset.v); }
    return cell.textContent.trim().toLowerCase();
  }
  document.querySelectorAll("table.sortable").forEach(function (table) {
    var heads = table.tHead.rows[0].cells;
    Array.prototype.forEach.call(heads, function (head, i) {
      head.querySelector("button").addEventListener("click", function () {
        var numeric = head.classList.contains("num");
        var down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : numeric;
        Array.prototype.forEach.call(heads, function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        var rows = Array.prototype.slice.call(table.tBodies[0].rows);
        rows.sort(function (a, b) {
          var x = key(a, i), y = key(b, i);
          if (x === null || y === null) { return (x === null) - (y === null); }
          var order = x < y ? -1 : x > y ? 1 : 0;
          return down ? -order : order;
        });
        rows.forEach(function (row) { table.tBodies[0].appendChild(row); });
      });
    });
  });

  // network pages: one at a time
  document.querySelectorAll("[data-browser]").forEach(function (browser) {
    var cards = Array.prototype.slice.call(browser.querySelectorAll(".network"));
    var chips = Array.prototype.slice.call(browser.querySelectorAll(".chips a"));
    function show(id) {
      var found = cards.some(function (card) { return card.id === id; });
      if (!found) { return false; }
      cards.forEach(function (card, i) {
        var on = card.id === id;
        card.classList.toggle("shown", on);
        if (on) { chips[i].setAttribute("aria-current", "true"); } else { chips[i].removeAttribute("aria-current"); }
      });
      return true;
    }
    function follow() { return show(decodeURIComponent(location.hash.slice(1))); }
    browser.classList.add("one");
    // the card was hidden when the browser looked for it, so it has to be brought into view
    function arrive() {
      if (!follow()) { return false; }
      var card = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      card.scrollIntoView();
      card.focus({ preventScroll: true });
      return true;
    }
    if (!arrive() && cards.length) { show(cards[0].id); }
    window.addEventListener("hashchange", arrive);
    browser.addEventListener("click", function (event) {
      var link = event.target.closest(".chips a, .turn a");
      if (!link) { return; }
      event.preventDefault();
      var id = link.getAttribute("href").slice(1);
      show(id);
      try { history.replaceState(null, "", "#" + id); } catch (error) { /* a page inside a frame may not */ }
    });
    browser.addEventListener("keydown", function (event) {
      var step = event.key === "ArrowRight" ? ".next" : event.key === "ArrowLeft" ? ".previous" : null;
      if (!step || event.target.closest(".scroll, input, canvas")) { return; } // these use the keys themselves
      var link = browser.querySelector(".network.shown " + step);
      if (link) { link.click(); event.preventDefault(); }
    });
  });

  // figures: a tap on a phone shows them larger, and scrolls
  document.querySelectorAll("figure .scroll").forEach(function (box) {
    box.addEventListener("click", function () {
      if (window.matchMedia("(max-width: 820px)").matches) { box.parentNode.classList.toggle("wide"); }
    });
  });

  // contents: mark where the reader is; folded on a phone
  var links = {};
  document.querySelectorAll(".toc a").forEach(function (a) { links[a.getAttribute("href").slice(1)] = a; });
  if ("IntersectionObserver" in window) {
    var observer = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) {
        if (!entry.isIntersecting) { return; }
        Object.keys(links).forEach(function (id) { links[id].removeAttribute("aria-current"); });
        if (links[entry.target.id]) { links[entry.target.id].setAttribute("aria-current", "true"); }
      });
    }, { rootMargin: "-5% 0px -75% 0px" });
    document.querySelectorAll("main > section").forEach(function (section) { observer.observe(section); });
  }
  var contents = document.querySelector(".toc details");
  if (contents && window.matchMedia("(max-width: 820px)").matches) { contents.open = false; }

  // copy the references
  document.querySelectorAll("button.copy").forEach(function (copy) {
    if (!navigator.clipboard) { return; }
    copy.hidden = false;
    copy.addEventListener("click", function () {
      navigator.clipboard.writeText(document.getElementById(copy.dataset.copy).textContent).then(function () {
        copy.textContent = "Copied";
      });
    });
  });
})();
