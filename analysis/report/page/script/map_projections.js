// Vega's projections name one of a package that Debian's Vega does not bring along; the report draws no maps.
export const geoMollweide = null;
