// Throughput against error; the points nobody beats are joined.

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

/// rows: {name, x, y, on, tip}.
export function frontier({rows, xTitle, yTitle, width, height = 320, theme}) {
  const points = rows.filter((row) => row.x !== null && row.y !== null);
  const on = points.filter((row) => row.on).sort((a, b) => a.x - b.x);
  return {
    $schema: 'https://vega.github.io/schema/vega/v5.json',
    width,
    height,
    padding: 4,
    autosize: {type: 'fit-x', contains: 'padding'},
    data: [
      {name: 'points', values: points}, {name: 'on', values: on},
      {name: 'named', values: readable(on, points, width, height)}
    ],
    scales: [
      {name: 'x', type: 'linear', range: 'width', zero: true, nice: true, domain: {data: 'points', field: 'x'}},
      {name: 'y', type: 'linear', range: 'height', zero: false, nice: true, domain: {data: 'points', field: 'y'}},
    ],
    axes: [
      {
        orient: 'bottom',
        scale: 'x',
        title: xTitle,
        grid: true,
        labelOverlap: true,
        labelFlush: true,
        tickCount: Math.max(3, Math.round(width / 90))
      },
      {orient: 'left', scale: 'y', title: yTitle, grid: true, domain: false, format: '~s', tickCount: 6},
    ],
    marks: [
      {
        type: 'line',
        from: {data: 'on'},
        interactive: false,
        encode: {
          enter: {
            x: {scale: 'x', field: 'x'},
            y: {scale: 'y', field: 'y'},
            stroke: {value: theme.accent},
            strokeWidth: {value: 2}
          }
        },
      },
      {
        type: 'symbol',
        name: 'point',
        from: {data: 'points'},
        encode: {
          enter: {
            x: {scale: 'x', field: 'x'},
            y: {scale: 'y', field: 'y'},
            tooltip: {field: 'tip'},
            fill: {signal: `datum.on ? '${theme.accent}' : '${theme.background}'`},
            stroke: {signal: `datum.on ? '${theme.accent}' : '${theme.muted}'`},
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
            x: {scale: 'x', field: 'x'},
            y: {scale: 'y', field: 'y'},
            text: {field: 'name'},
            fill: {value: theme.text},
            align: {signal: 'scale(\'x\', datum.x) > width * 0.7 ? \'right\' : \'left\''},
            dx: {signal: 'scale(\'x\', datum.x) > width * 0.7 ? -8 : 8'},
            dy: {value: 12},
            limit: {signal: 'width * 0.5'}
          }
        },
      },
    ],
  };
}
