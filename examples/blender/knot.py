"""Renders frames FIRST to LAST of a knot that turns into OUT: knot.py FIRST LAST OUT."""

import json
import math
import os
import sys

import bpy

FRAMES = 24

first, last, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
params = json.loads(os.environ.get("IPDC_PARAMS") or "{}")

bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene


def material(name, colour, metallic, roughness):
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    shader = made.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (*colour, 1)
    shader.inputs["Metallic"].default_value = metallic
    shader.inputs["Roughness"].default_value = roughness
    return made


def add(name, data):
    made = bpy.data.objects.new(name, data)
    scene.collection.objects.link(made)
    return made


# A trefoil, as a tube around a closed curve.
POINTS = 120
curve = bpy.data.curves.new("knot", "CURVE")
curve.dimensions = "3D"
curve.bevel_depth = 0.38
curve.bevel_resolution = 6
spline = curve.splines.new("POLY")
spline.points.add(POINTS - 1)
spline.use_cyclic_u = True
for n, point in enumerate(spline.points):
    t = 2 * math.pi * n / POINTS
    x = math.sin(t) + 2 * math.sin(2 * t)
    y = math.cos(t) - 2 * math.cos(2 * t)
    point.co = (x * 0.7, y * 0.7, -math.sin(3 * t) * 0.7, 1)
knot = add("knot", curve)
curve.materials.append(material("gold", (0.9, 0.55, 0.2), 1.0, 0.25))

floor = bpy.data.meshes.new("floor")
floor.from_pydata([(-20, -20, -2.6), (20, -20, -2.6), (20, 20, -2.6), (-20, 20, -2.6)], [], [(0, 1, 2, 3)])
floor.materials.append(material("floor", (0.25, 0.3, 0.4), 0.0, 0.6))
add("floor", floor)

light = bpy.data.lights.new("light", "AREA")
light.energy, light.size = 900, 4
lamp = add("lamp", light)
lamp.location, lamp.rotation_euler = (4, -5, 6), (math.radians(45), 0, math.radians(38))

world = bpy.data.worlds.new("world")
world.use_nodes = True
world.node_tree.nodes["Background"].inputs[0].default_value = (0.5, 0.6, 0.8, 1)
scene.world = world

camera = add("camera", bpy.data.cameras.new("camera"))
camera.location, camera.rotation_euler = (0, -9, 3.2), (math.radians(72), 0, 0)
scene.camera = camera

scene.render.engine = "CYCLES"
scene.cycles.device = "CPU"
scene.cycles.samples = int(params.get("samples", 16))
scene.cycles.seed = 1
scene.render.resolution_x, scene.render.resolution_y = 320, 180
scene.render.image_settings.file_format = "PNG"

for frame in range(first, last + 1):
    knot.rotation_euler = (math.radians(60), 0, 2 * math.pi * (frame - 1) / FRAMES)
    scene.render.filepath = os.path.join(out, f"frame{frame:04}.png")
    bpy.ops.render.render(write_still=True)
