// Tables and what they look like as CSV.
import {download, element} from './elements.js';
import {number, visible} from './format.js';

/// More rows than this are in the CSV only.
const mostRows = 500;

const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

/// RFC 4180, lines ending with a line feed; null is an empty cell.
export function csvText(columns, rows) {
  const cell = (value) => (value === null || value === undefined ? '' : quoted(String(value)));
  return [columns, ...rows].map((row) => row.map(cell).join(',')).join('\n') + '\n';
}

export function csvButton(name, content) {
  return element(
      'button', {
        type: 'button',
        'aria-label': `Download ${name} as CSV`,
        onclick: () => {
          const {columns, rows} = content();
          download(`${name}.csv`, new Blob([csvText(columns, rows)], {type: 'text/csv;charset=utf-8'}));
        }
      },
      'CSV');
}

/// Columns as of tableCard. Only the first rows of a long table are shown.
function tableElement(title, columns, rows, strong) {
  const head = element(
      'tr', {},
      columns.map((column) => element('th', {scope: 'col', class: column.number ? 'number' : null}, column.name)));
  const body =
      rows.slice(0, mostRows)
          .map((row, r) => element('tr', {class: strong(row, r) ? 'strong' : null}, columns.map((column, c) => {
                 const value = row[c];
                 const text = column.show ? column.show(value, row) :
                                            (value === null || value === undefined ? 'n/a' : String(value));
                 return element('td', {class: column.number ? 'number' : column.long ? 'long' : null}, text);
               })));
  return [
    rows.length > mostRows ?
        element('p', {class: 'note'}, `The first ${mostRows} of ${rows.length} rows; the CSV has all.`) :
        null,
    element(
        'div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': title},
        element('table', {}, element('thead', {}, head), element('tbody', {}, body)))
  ];
}

/// The values behind a chart, written out when they are asked for.
export function valuesBelow(title, content) {
  const holder = element('div', {});
  const details = element(
      'details', {class: 'values', ontoggle: () => holder.replaceChildren(...(details.open ? written() : []))},
      element('summary', {}, 'Values'), holder);
  const written = () => {
    const {columns, rows} = content();
    const numeric = columns.map((_, c) => rows.some((row) => typeof row[c] === 'number'));
    const show = (value) =>
        (typeof value === 'number'                 ? number(value) :
             value === null || value === undefined ? 'n/a' :
                                                     visible(String(value)));
    return tableElement(
               title, columns.map((name, c) => ({name: visible(name), number: numeric[c], show})), rows, () => false)
        .filter(Boolean);
  };
  return details;
}

/// A table in a card. columns: [{name, number, long, show}]; rows: arrays of values, downloaded as they are and shown
/// through `show`.
export function tableCard({name, title, columns, rows, note = null, strong = () => false}) {
  const content = () => ({columns: columns.map((column) => column.csv ?? column.name), rows});
  return element(
      'div', {class: 'card', 'data-table': name},
      element(
          'div', {class: 'head'}, element('h3', {}, title), element('div', {class: 'tools'}, csvButton(name, content))),
      note ? element('p', {class: 'note'}, note) : null, tableElement(title, columns, rows, strong));
}
