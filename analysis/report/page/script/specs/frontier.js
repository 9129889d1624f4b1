// Throughput against damage; the points nobody beats are joined.
import {atPoint, bottomAxis, frame, leftAxis, scaleOver} from './frame.js';

const lineHeight = 14;
const letterWidth = 6;
const narrow = 480;

/// Of the frontier's points, those whose names do not cover each other, the steepest parts first served by throughput.
function readable(on, points, width, height) {
  const mostX = Math.max(...points.map((point) => point.x), 1e-12);
  const lowY = Math.min(...points.map((point) => point.y));
  const highY = Math.max(...points.map((point) => point.y), lowY + 1e-12);
  const taken = [];
  if (width < narrow) return [];
  for (const point of [...on].sort((a, b) => b.y - a.y)) {
    const x = point.x / mostX * width;
    const y = (highY - point.y) / (highY - lowY) * height;
    const left = x > 0.7 * width ? x - letterWidth * point.name.length : x;
    const box = {left, right: left + letterWidth * point.name.length, y};
    if (!taken.some((other) => Math.abs(other.y - y) < lineHeight && box.left < other.right && other.left < box.right))
      taken.push({...box, point});
  }
  return taken.map((one) => one.point);
}

/// rows: {name, x, y, on, outside: drawn as a diamond, tip}. Null without a point.
export function frontier({rows, xTitle, yTitle, width, height = 320, theme}) {
  const points = rows.filter((row) => row.x !== null && row.y !== null);
  if (points.length === 0) return null;
  const on = points.filter((row) => row.on).sort((a, b) => a.x - b.x);
  const nearRight = 'scale(\'x\', datum.x) > width * 0.7';
  return frame({
    width,
    height,
    data: [
      {name: 'points', values: points}, {name: 'on', values: on},
      {name: 'named', values: readable(on, points, width, height)}
    ],
    scales: [
      scaleOver('x', 'width', {data: 'points', field: 'x'}),
      scaleOver('y', 'height', {data: 'points', field: 'y'}, {zero: false})
    ],
    axes: [bottomAxis(width, {title: xTitle}), leftAxis({title: yTitle, format: '~s'})],
    marks: [
      {
        type: 'line',
        from: {data: 'on'},
        interactive: false,
        encode: {enter: {...atPoint, stroke: {value: theme.accent}, strokeWidth: {value: 2}}},
      },
      {
        type: 'symbol',
        name: 'point',
        from: {data: 'points'},
        encode: {
          enter: {
            ...atPoint,
            tooltip: {field: 'tip'},
            shape: {signal: 'datum.outside ? \'diamond\' : \'circle\''},
            fill: {signal: `datum.on ? '${theme.accent}' : '${theme.background}'`},
            stroke: {signal: `datum.on ? '${theme.accent}' : datum.outside ? '${theme.warning}' : '${theme.muted}'`},
            strokeWidth: {value: 1.5}
          },
          update: {size: {signal: 'datum.on ? 90 : 45'}},
          hover: {size: {value: 160}}
        },
      },
      {
        type: 'text',
        from: {data: 'named'},
        interactive: false,
        encode: {
          enter: {
            ...atPoint,
            text: {field: 'name'},
            fill: {value: theme.text},
            align: {signal: `${nearRight} ? 'right' : 'left'`},
            dx: {signal: `${nearRight} ? -8 : 8`},
            dy: {signal: 'scale(\'y\', datum.y) > height - 16 ? -8 : 12'},
            limit: {signal: 'width * 0.5'}
          }
        },
      },
    ],
  });
}
