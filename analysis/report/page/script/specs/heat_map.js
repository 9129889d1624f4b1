// Coloured cells over two axes; the cells' values are replaced while the axes and the colours stay.
import {bottomAxis, frame, namesAxis} from './frame.js';

/// cells: {column, row, value, tip}. columns, rows: names in order. domain: the colours' [low, high].
export function heatMap({
  cells,
  columns,
  rows,
  columnTitle,
  rowTitle,
  valueTitle,
  domain,
  log = false,
  reverse = false,
  width,
  cellHeight,
  theme,
  format = '.3~g',
  rowLimit = 120
}) {
  const shown = cells.filter((cell) => cell.value !== null);
  const narrow = width < 480;
  return frame({
    width,
    height: Math.max(40, cellHeight * rows.length),
    data: [{name: 'cells', values: shown}],
    scales: [
      {name: 'x', type: 'band', domain: columns, range: 'width'},
      {name: 'y', type: 'band', domain: rows, range: 'height'},
      {name: 'colour', type: log ? 'log' : 'linear', domain, range: {scheme: 'viridis'}, reverse, clamp: true},
    ],
    axes: [
      bottomAxis(
          width, {title: columnTitle, labelAngle: 0, labelFlush: false, grid: false, ticks: false, domain: false}),
      namesAxis(rowLimit, {title: rowTitle, labelOverlap: true})
    ],
    legends: [{
      fill: 'colour',
      type: 'gradient',
      title: valueTitle,
      format,
      orient: narrow ? 'bottom' : 'right',
      titleLimit: 240,
      direction: narrow ? 'horizontal' : 'vertical',
      gradientLength: narrow ? Math.max(100, width - 120) : Math.min(200, Math.max(60, cellHeight * rows.length - 40)),
    }],
    marks: [
      {
        type: 'rect',
        name: 'missing',
        interactive: false,
        encode: {enter: {width: {signal: 'width'}, height: {signal: 'height'}, fill: {value: theme.grid}}},
      },
      {
        type: 'rect',
        name: 'cell',
        from: {data: 'cells'},
        encode: {
          enter: {x: {scale: 'x', field: 'column'}, y: {scale: 'y', field: 'row'}},
          update: {
            x: {scale: 'x', field: 'column'},
            y: {scale: 'y', field: 'row'},
            width: {signal: 'bandwidth(\'x\') + 0.4'},
            height: {signal: 'bandwidth(\'y\') + 0.4'},
            // Zero has no logarithm: it has the colour of the smallest value.
            fill: {scale: 'colour', signal: log ? `max(datum.value, ${domain[0]})` : 'datum.value'},
            tooltip: {field: 'tip'}
          }
        },
      },
    ],
  });
}
