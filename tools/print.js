/* Prepares a page for paper: Chromium prints what it shows. So all is unfolded (the style does it too, but not in an old
   Chromium), every formula is set, a table that is wider than the paper is made smaller; links to other pages lead to the
   published book. Returns the headings. */
async ([here, published]) => {
  document.querySelectorAll('details').forEach(details => { details.open = true; });
  document.querySelectorAll('.headerlink').forEach(link => link.remove());
  document.querySelectorAll('a').forEach(link => {
    const inside = (link.getAttribute('href') || '#').startsWith('#');
    if (!inside && link.href.startsWith(here)) link.href = published + link.href.slice(here.length);
  });
  await Promise.all([...document.images].map(image => image.decode()));
  await document.fonts.ready;
  if (window.MathJax) await MathJax.startup.promise;
  document.querySelectorAll('.bd-article table').forEach(table => {
    const room = table.parentElement.clientWidth;
    if (table.offsetWidth > room) table.style.zoom = room / table.offsetWidth;
  });
  const headings = document.querySelectorAll('.bd-article :is(h1, h2, h3, h4, h5, h6)');
  return Array.from(headings, heading => heading.textContent.trim().replace(/\s+/g, ' '));
}
