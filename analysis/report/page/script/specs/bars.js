// Horizontal bars, stacked when a row has several parts.
import {bottomAxis, frame, namesAxis, partColours, partLegend, scaleOver} from './frame.js';

const barHeight = 20;
const narrow = 480;

/// rows: {name, part, value, tip}, in the order of the bars. parts: [{name, colour}]. Null without a value.
export function bars({rows, parts, title, format, domain, width, legend = parts.length > 1}) {
  const values = rows.filter((row) => row.value !== null);
  if (values.length === 0) return null;
  const names = [...new Set(values.map((row) => row.name))];
  const most = Math.max(...values.map((row) => row.value));
  return frame({
    width,
    height: barHeight * names.length,
    data: [{
      name: 'rows',
      values,
      transform: [{type: 'stack', field: 'value', groupby: ['name'], as: ['from', 'to']}],
    }],
    scales: [
      scaleOver('x', 'width', domain ?? {data: 'rows', field: 'to'}, {nice: !domain}),
      {name: 'y', type: 'band', range: 'height', domain: names, padding: 0.22}, partColours(parts)
    ],
    axes: [
      bottomAxis(width, {title, format: format ?? (most >= 1000 ? '.3~s' : '.3~g')}, 130),
      namesAxis(Math.min(220, Math.round(width * (width < narrow ? 0.52 : 0.38))))
    ],
    legends: legend ? [partLegend(width)] : [],
    marks: [{
      type: 'rect',
      name: 'bar',
      from: {data: 'rows'},
      encode: {
        enter: {
          x: {scale: 'x', field: 'from'},
          x2: {scale: 'x', field: 'to'},
          y: {scale: 'y', field: 'name'},
          height: {scale: 'y', band: 1},
          fill: {scale: 'colour', field: 'part'},
          tooltip: {field: 'tip'}
        },
        update: {fillOpacity: {value: 1}},
        hover: {fillOpacity: {value: 0.75}}
      },
    }],
  });
}
