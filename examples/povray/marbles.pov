// Three marbles go round on a board; `clock` runs from 0 to 1 over the frames.
#version 3.7;
global_settings { assumed_gamma 1.0 max_trace_level 8 }

camera { location <0, 5, -9> look_at <0, 0.6, 0> angle 38 right x * image_width / image_height }
background { rgb <0.75, 0.85, 1.0> }
light_source { <6, 12, -8> rgb 1.1 area_light <2, 0, 0>, <0, 0, 2>, 4, 4 adaptive 1 jitter }
light_source { <-10, 6, -4> rgb 0.35 shadowless }

// The board.
box {
  <-4, -0.3, -4>, <4, 0, 4>
  texture {
    pigment { checker rgb <0.85, 0.75, 0.6>, rgb <0.45, 0.3, 0.18> scale 0.8 }
    finish { specular 0.3 reflection { 0.02, 0.15 fresnel } conserve_energy }
  }
  interior { ior 1.4 }
}

// One marble: a third of the way from the next, and turning as it rolls.
#macro Marble(Place, Colour)
  sphere {
    0, 0.8
    texture {
      pigment {
        marble turbulence 1.4
        color_map { [0.0 rgb Colour] [0.7 rgb Colour * 0.4 + 0.5] [1.0 rgb 1] }
        scale 0.5
      }
      finish { specular 0.8 roughness 0.01 reflection { 0.05, 0.35 fresnel } conserve_energy }
    }
    interior { ior 1.5 }
    rotate -360 * 2 * clock * x
    translate <0, 0.8, -2.2>
    rotate 360 * (clock + Place) * y
  }
#end

Marble(0, <0.8, 0.1, 0.1>)
Marble(1/3, <0.1, 0.5, 0.2>)
Marble(2/3, <0.1, 0.2, 0.8>)
