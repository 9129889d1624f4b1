// Stacked areas over steps.

/// rows: {part, x, value}. parts: [{name, colour}].
export function areas({rows, parts, xTitle, yTitle, format = '.3~s', width, height = 220}) {
  return {
    $schema: 'https://vega.github.io/schema/vega/v5.json',
    width,
    height,
    padding: 4,
    autosize: {type: 'fit-x', contains: 'padding'},
    data: [{
      name: 'rows',
      values: rows.filter((row) => row.value !== null),
      transform: [{type: 'stack', field: 'value', groupby: ['x'], sort: {field: 'order'}, as: ['from', 'to']}],
    }],
    scales: [
      {name: 'x', type: 'linear', range: 'width', domain: {data: 'rows', field: 'x'}, zero: false, nice: false},
      {name: 'y', type: 'linear', range: 'height', domain: {data: 'rows', field: 'to'}, zero: true, nice: true},
      {
        name: 'colour',
        type: 'ordinal',
        domain: parts.map((part) => part.name),
        range: parts.map((part) => part.colour)
      },
    ],
    axes: [
      {
        orient: 'bottom',
        scale: 'x',
        title: xTitle,
        labelOverlap: true,
        labelFlush: true,
        tickCount: Math.max(3, Math.round(width / 90))
      },
      {orient: 'left', scale: 'y', title: yTitle, format, grid: true, domain: false, tickCount: 5},
    ],
    legends: [{fill: 'colour', orient: 'top', direction: 'horizontal', symbolType: 'square'}],
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
  };
}
