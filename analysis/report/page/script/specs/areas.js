// Stacked areas over steps.
import {bottomAxis, frame, leftAxis, partColours, partLegend, scaleOver} from './frame.js';

/// rows: {part, order, x, value, tip}. parts: [{name, colour}]. Null without a value.
export function areas({rows, parts, xTitle, yTitle, format = '.3~s', width, height = 220}) {
  const values = rows.filter((row) => row.value !== null);
  if (values.length === 0) return null;
  return frame({
    width,
    height,
    data: [{
      name: 'rows',
      values,
      transform: [{type: 'stack', field: 'value', groupby: ['x'], sort: {field: 'order'}, as: ['from', 'to']}],
    }],
    scales: [
      scaleOver('x', 'width', {data: 'rows', field: 'x'}, {zero: false, nice: false}),
      scaleOver('y', 'height', {data: 'rows', field: 'to'}), partColours(parts)
    ],
    axes: [bottomAxis(width, {title: xTitle, grid: false}), leftAxis({title: yTitle, format, tickCount: 5})],
    legends: [partLegend(width)],
    marks: [{
      type: 'group',
      from: {facet: {name: 'one', data: 'rows', groupby: 'part'}},
      marks: [{
        type: 'area',
        from: {data: 'one'},
        encode: {
          enter: {
            x: {scale: 'x', field: 'x'},
            y: {scale: 'y', field: 'from'},
            y2: {scale: 'y', field: 'to'},
            fill: {scale: 'colour', field: 'part'},
            fillOpacity: {value: 0.85},
            tooltip: {field: 'tip'}
          }
        },
      }],
    }],
  });
}
