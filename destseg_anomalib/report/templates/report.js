// Copyright (C) 2026 destseg-anomalib contributors
// SPDX-License-Identifier: Apache-2.0
"use strict";
(() => {
  for (const figure of document.querySelectorAll(".chart")) {
    const { spec, description } = JSON.parse(figure.querySelector("script").textContent);
    const place = figure.querySelector("div");
    // Expressions are interpreted: the page's policy forbids to compile them.
    vegaEmbed(place, spec, { actions: false, ast: true, renderer: "svg" }).then(() => {
      const svg = place.querySelector("svg");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", description);
      // A finger that is lifted takes the pointer, and so the tooltip, away. The click that follows brings it back.
      svg.addEventListener("click", ({ target, clientX, clientY }) => {
        for (const type of ["pointerover", "pointermove"]) target.dispatchEvent(new PointerEvent(type, { bubbles: true, clientX, clientY }));
      });
    });
  }
  // A scroll bar that hides until it is used tells nobody that there are more columns.
  const watch = new ResizeObserver((entries) => entries.forEach(({ target }) => {
    target.toggleAttribute("data-more", target.scrollWidth > target.clientWidth);
  }));
  for (const box of document.querySelectorAll(".box")) watch.observe(box);
  const table = document.getElementById("sortable");
  if (table) {
    const headings = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    const number = (row, column) => parseFloat(row.cells[column].dataset.value);
    const compare = (a, b, column) => {
      if (column < 2) return a.cells[column].textContent.localeCompare(b.cells[column].textContent, undefined, { numeric: true });
      return number(a, column) - number(b, column);
    };
    headings.forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => {
        const now = heading.getAttribute("aria-sort");
        const next = !now ? heading.dataset.first : now === "ascending" ? "descending" : "ascending";
        const sign = next === "ascending" ? 1 : -1;
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", next);
        // Gaps stay at the end, whichever way the rest goes.
        const isGap = (row) => column > 1 && Number.isNaN(number(row, column));
        body.append(...[...body.rows].sort((a, b) => isGap(a) - isGap(b) || (isGap(a) ? 0 : sign * compare(a, b, column))));
      });
    });
    const filter = document.getElementById("filter");
    const select = filter.querySelector("select");
    filter.hidden = false;
    select.addEventListener("change", () => {
      for (const row of body.rows) row.hidden = select.value !== "" && row.dataset.place !== select.value;
    });
  }
  // Paper has no triangles to click: print everything, and put the page back afterwards.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((details) => { details.open = false; }));
})();
