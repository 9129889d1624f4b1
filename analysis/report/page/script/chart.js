// Turns a specification into a Vega view. Expressions are interpreted, so that the page needs no `eval`.
import {chartConfig} from './palette.js';
import {expressionInterpreter, loader, parse, View} from './vega.js';

/// Nothing is ever fetched.
function closedLoader() {
  const closed = loader();
  closed.load = () => Promise.reject(new Error('the report loads nothing'));
  closed.sanitize = () => Promise.reject(new Error('the report links nowhere'));
  return closed;
}

/// A view of the specification, not yet drawn; `options` as for vega.View.
export function viewOf(spec, theme, options) {
  return new View(
      parse(spec, chartConfig(theme), {ast: true}), {expr: expressionInterpreter, loader: closedLoader(), ...options});
}

function countItems(item) {
  let count = 0;
  for (const child of item.items ?? []) {
    if (child.items && !child.marktype)
      for (const mark of child.items) count += countMark(mark);
  }
  return count;
}

function countMark(mark) {
  if (mark.marktype === 'group')
    return mark.role?.startsWith('axis') || mark.role?.startsWith('legend') ? 0 : countItems(mark);
  return mark.items.length;
}

/// How many marks of data a drawn view shows: lines, points, bars and cells, without axes and legends.
export function countMarks(view) {
  return countMark(view.scenegraph().root);
}
