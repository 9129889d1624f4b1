// Horizontal bars, stacked when a row has several parts.

/// rows: {name, part, value, tip}; the order of `names` is the order of the bars. parts: [{name, colour}].
export function bars(
    {rows, names, parts, title, format, domain, width, barHeight = 20, theme, legend = false, nameLimit}) {
  const most = Math.max(...rows.map((row) => row.value ?? 0));
  const numberFormat = format ?? (most >= 1000 ? '.3~s' : '.3~g');
  const limit = nameLimit ?? Math.min(220, Math.round(width * 0.38));
  return {
    $schema: 'https://vega.github.io/schema/vega/v5.json',
    width,
    height: barHeight * names.length,
    padding: 4,
    autosize: {type: 'fit-x', contains: 'padding'},
    data: [{
      name: 'rows',
      values: rows.filter((row) => row.value !== null),
      transform: [{type: 'stack', field: 'value', groupby: ['name'], as: ['from', 'to']}],
    }],
    scales: [
      {
        name: 'x',
        type: 'linear',
        range: 'width',
        zero: true,
        nice: !domain,
        domain: domain ??
            {
              data: 'rows', field: 'to'
            }
      },
      {name: 'y', type: 'band', range: 'height', domain: names, padding: 0.22},
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
        title,
        format: numberFormat,
        grid: true,
        labelOverlap: true,
        labelFlush: true,
        tickCount: Math.max(3, Math.round(width / 130))
      },
      {orient: 'left', scale: 'y', labelLimit: limit, ticks: false, domain: false},
    ],
    legends: legend || parts.length > 1 ?
        [{fill: 'colour', orient: 'top', direction: 'horizontal', symbolType: 'square'}] :
        [],
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
  };
}
